//! `picketd scan --benchmark`: a CIS report has a line for each number, in every form.

use std::collections::{BTreeMap, BTreeSet};

use picket_checks::{Op, Policy, Scope, Source};
use picket_model::{Role, Status};
use picket_tests::node::Profile;
use picketd::report::Form;
use serde_json::Value;

use crate::{Node, built_in, json, printed};

const VERSIONS: [&str; 6] = ["1.9", "1.10", "1.11", "1.12", "2.0", "2.1"];

fn policy(version: &str) -> Policy {
    Policy { benchmark: Some(version.to_owned()), ..built_in() }
}

#[test]
fn every_number_of_every_version_has_its_verdict_on_server_and_agent() {
    for profile in Profile::ALL {
        let node = Node::new(profile);
        for version in VERSIONS {
            let policy = policy(version);
            let report = node.scan(&policy);
            let wanted: BTreeMap<&String, &picket_checks::Control> =
                policy.catalogue.controls().iter().filter_map(|c| Some((c.cis.get(version)?, c))).collect();
            assert!(wanted.len() > 100, "{version}");
            let got: BTreeSet<&String> = report.verdicts.iter().filter_map(|v| v.cis.get(version)).collect();
            assert_eq!(got, wanted.keys().copied().collect(), "{profile:?} {version}");

            for (number, control) in wanted {
                let mut rows = report.verdicts.iter().filter(|v| v.control == control.id);
                let mut all = |status: Status| rows.all(|v| v.status == status);
                let is_agent = report.node.info.role == Some(Role::Agent);
                if is_agent && matches!(control.scope, Scope::Server | Scope::EtcdServer | Scope::Cluster) {
                    assert!(all(Status::NotApplicable), "{number} on an agent");
                } else if control.expected.op == Op::Manual {
                    assert!(rows.all(|v| matches!(v.status, Status::Manual | Status::NotApplicable)), "{number}");
                } else if control.source == Source::ClusterApi {
                    assert!(
                        rows.all(|v| v.status == Status::NotApplicable
                            || v.status == Status::Unknown && v.observed.contains("needs cluster access")),
                        "{number}"
                    );
                }
            }
        }
    }
}

#[test]
fn sections_add_up_to_the_numbers_of_the_version() {
    let node = Node::new(Profile::HardenedServer);
    for version in VERSIONS {
        let report = node.scan(&policy(version));
        let document = json(&report);
        let benchmark = &document["benchmark"];
        assert_eq!(benchmark["version"], version);
        let count = |row: &Value| {
            ["pass", "fail", "unknown", "not_applicable", "manual"]
                .iter()
                .map(|s| row[s].as_u64().unwrap())
                .sum::<u64>()
        };
        let sections = benchmark["sections"].as_array().unwrap();
        let names: Vec<&str> = sections.iter().map(|s| s["section"].as_str().unwrap()).collect();
        for section in ["1.1", "1.2", "1.3", "1.4", "2", "4.1", "4.2", "5.1", "5.2"] {
            assert!(names.contains(&section), "{version} has no section {section}: {names:?}");
        }
        let numbers = benchmark["numbers"].as_array().unwrap().len() as u64;
        assert_eq!(sections.iter().map(count).sum::<u64>(), numbers, "{version}");
        assert_eq!(count(&benchmark["summary"]), numbers);
        assert!(sections.iter().all(|s| s["title"].as_str().is_some_and(|t| !t.is_empty())), "{sections:#?}");

        let table = printed(&report, Form::Table);
        assert!(table.contains(&format!("CIS {version}, {numbers} controls:")), "{table}");
        for name in names {
            assert!(table.lines().any(|l| l.starts_with(name) && !l.contains(':')), "{version} {name}");
        }
    }
}

#[test]
fn only_the_benchmark_leaves_the_rest_out() {
    let mut report = Node::new(Profile::DefaultServer).scan(&policy("2.1"));
    let before = report.verdicts.len();
    report.keep_benchmark();
    assert!(report.verdicts.len() < before);
    assert!(report.verdicts.iter().all(|v| v.cis.contains_key("2.1")));
}

#[test]
fn without_a_benchmark_nothing_is_added() {
    let document = json(&Node::new(Profile::DefaultServer).scan(&built_in()));
    assert_eq!(document.get("benchmark"), None);
    let keys: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys.iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from(["schema", "node", "summary", "verdicts"])
    );
}

/// What SARIF 2.1.0 demands of the parts we write.
#[test]
fn sarif_has_what_the_format_demands() {
    let report = Node::new(Profile::DefaultServer).scan(&policy("2.1"));
    let sarif: Value = serde_json::from_str(&printed(&report, Form::Sarif)).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert!(sarif["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
    let [run] = sarif["runs"].as_array().unwrap().as_slice() else { panic!("one run") };
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "picketd");
    let rules = driver["rules"].as_array().unwrap();
    let ids: BTreeSet<&str> = rules.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rules.len(), "rule ids are unique");
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), report.verdicts.len());
    for result in results {
        let rule = &rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
        assert_eq!(rule["id"], result["ruleId"]);
        let (kind, level) = (result["kind"].as_str().unwrap(), result["level"].as_str().unwrap());
        assert!(["pass", "fail", "open", "notApplicable", "review"].contains(&kind));
        assert!(["error", "warning", "note", "none"].contains(&level));
        assert_eq!(kind == "fail", level != "none", "only a failure has a level: {result}");
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let places = result["locations"].as_array().unwrap();
        assert!(!places.is_empty(), "{result}");
        for place in places {
            if place["logicalLocations"][0]["fullyQualifiedName"].is_string() {
                continue;
            }
            let physical = &place["physicalLocation"];
            assert!(physical["artifactLocation"]["uri"].as_str().unwrap().starts_with("file:///"), "{place}");
            if let Some(region) = physical.get("region") {
                assert!(region["startLine"].as_u64().unwrap() >= 1);
            }
        }
    }
    assert!(run["invocations"][0]["executionSuccessful"].is_boolean());
}

/// What OCSF demands of a compliance finding.
#[test]
fn ocsf_has_what_the_class_demands() {
    let report = Node::new(Profile::DefaultServer).scan(&policy("1.11"));
    let text = printed(&report, Form::Ocsf);
    assert_eq!(text.lines().count(), report.verdicts.len());
    for (line, verdict) in text.lines().zip(&report.verdicts) {
        let finding: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&finding["class_uid"], &finding["category_uid"]), (&2003.into(), &2.into()));
        let class = finding["class_uid"].as_u64().unwrap();
        assert_eq!(finding["type_uid"].as_u64(), finding["activity_id"].as_u64().map(|a| class * 100 + a));
        assert!(finding["time"].is_i64() && finding["severity_id"].as_u64().is_some_and(|s| (1..=5).contains(&s)));
        assert!(finding["metadata"]["version"].is_string() && finding["metadata"]["product"]["name"].is_string());
        assert!(finding["finding_info"]["uid"].is_string() && finding["finding_info"]["title"].is_string());
        let compliance = &finding["compliance"];
        let wanted = match verdict.status {
            Status::Pass => 1,
            Status::Fail => 3,
            Status::Unknown => 0,
            Status::NotApplicable | Status::Manual => 99,
        };
        assert_eq!(compliance["status_id"], wanted);
        let standards: Vec<&str> =
            compliance["standards"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        let of_version = verdict.cis.contains_key("1.11");
        assert_eq!(standards, if of_version { vec!["CIS K3s Benchmark 1.11"] } else { vec![] });
    }
}

#[test]
fn junit_has_a_suite_for_each_section_and_its_counts_are_right() {
    let report = Node::new(Profile::DefaultServer).scan(&policy("2.1"));
    let text = printed(&report, Form::Junit);
    assert!(text.contains(r#"<testsuite name="CIS 2.1 section 1.2""#), "{text}");
    let number = |line: &str, name: &str| -> usize {
        line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let total = |name: &str| text.lines().filter(|l| l.contains("<testsuite ")).map(|l| number(l, name)).sum::<usize>();
    let count = |status: Status| report.verdicts.iter().filter(|v| v.status == status).count();
    assert_eq!(total("tests"), report.verdicts.len());
    assert_eq!(total("failures"), count(Status::Fail));
    assert_eq!(total("errors"), count(Status::Unknown));
    assert_eq!(text.matches("<failure ").count(), count(Status::Fail));
    assert_eq!(text.matches("<testcase ").count(), report.verdicts.len());
}

#[test]
fn csv_has_the_number_in_the_version_asked_for() {
    let report = Node::new(Profile::Agent).scan(&policy("1.9"));
    let text = printed(&report, Form::Csv);
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert!(header.ends_with(&["remedy", "cis_number", "waived_until", "waived_reason"]), "{header:?}");
    assert_eq!(lines.count(), report.verdicts.len());
}
