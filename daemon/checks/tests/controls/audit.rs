//! The audit policy and the audit log, by what a user sees.

use Status::{Fail, NotApplicable, Pass, Unknown};
use picket_checks::*;
use picket_model::{Observation, Status};

use crate::good::*;
use crate::ops::{server, with_flag};

#[test]
fn audit_policy_rules_are_taken_in_order() {
    let judge = |rules: &str, control: &str| {
        let mut snap = server();
        let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}");
        let policy = AuditPolicy::parse(text.as_bytes()).unwrap();
        snap.audit_policies.values_mut().for_each(|p| *p = Observation::from(policy.clone()));
        status(&snap, control)
    };
    let secrets = "audit-policy-secrets-metadata-only";
    let metadata_first = "- level: Metadata\n  resources: [{group: '', resources: [secrets, 'secrets/*', configmaps, serviceaccounts/token]}, {group: authentication.k8s.io, resources: [tokenreviews]}]\n- level: RequestResponse\n";
    assert_eq!(judge(metadata_first, secrets), Pass);
    assert_eq!(
        judge(
            "- level: RequestResponse\n- level: Metadata\n  resources: [{group: '', resources: [secrets]}]\n",
            secrets
        ),
        Fail
    );
    assert_eq!(
        judge("- level: Request\n  resources: [{group: ''}]\n- level: Metadata\n", secrets),
        Fail,
        "a group alone"
    );
    assert_eq!(
        judge("- level: Request\n  resources: [{group: '', resources: ['*']}]\n- level: Metadata\n", secrets),
        Fail
    );
    assert_eq!(judge("- level: Request\n  verbs: [create]\n- level: Metadata\n", secrets), Fail, "one verb is enough");
    assert_eq!(
        judge("- level: Request\n  namespaces: [default]\n- level: Metadata\n", secrets),
        Fail,
        "one namespace is enough"
    );
    assert_eq!(judge("- level: Request\n  nonResourceURLs: ['/x']\n- level: Metadata\n", secrets), Pass);
    assert_eq!(judge("- level: Request\n  resources: [{group: apps}]\n- level: Metadata\n", secrets), Pass);
    // `secrets` does not name its subresources.
    assert_eq!(
        judge(
            "- level: Metadata\n  resources: [{group: '', resources: [secrets]}]\n- level: RequestResponse\n",
            secrets
        ),
        Fail
    );
    assert_eq!(judge(metadata_first, "audit-policy-configmaps-tokenreviews-metadata-only"), Pass);
    assert_eq!(judge(metadata_first, "audit-policy-token-requests-metadata-only"), Pass);
    assert_eq!(judge(metadata_first, "audit-policy-key-concerns"), Pass);

    let exec = "audit-policy-exec-portforward-proxy";
    assert_eq!(
        judge("- level: Metadata\n  resources: [{group: '', resources: [pods, services]}]\n", exec),
        Fail,
        "no subresources"
    );
    assert_eq!(
        judge("- level: Metadata\n  resources: [{group: '', resources: ['pods/*', 'services/*']}]\n", exec),
        Pass
    );

    let rbac = "audit-policy-rbac-changes";
    assert_eq!(
        judge(
            "- level: Metadata\n  verbs: [create, update, patch]\n  resources: [{group: rbac.authorization.k8s.io}]\n",
            rbac
        ),
        Fail
    );
    assert_eq!(
        judge(
            "- level: Metadata\n  verbs: [create, update, patch, delete]\n  resources: [{group: rbac.authorization.k8s.io}]\n",
            rbac
        ),
        Pass
    );
    assert_eq!(judge("- level: None\n  users: [alice]\n- level: Metadata\n", rbac), Fail, "a person's blind spot");
    assert_eq!(judge("- level: None\n  users: ['system:kube-proxy']\n- level: Metadata\n", rbac), Pass);

    let rest = "audit-policy-catch-all";
    assert_eq!(judge("- level: Metadata\n  resources: [{group: ''}]\n", rest), Fail);
    assert_eq!(judge("- level: None\n  verbs: [get, list, watch]\n- level: Metadata\n", rest), Fail);
    assert_eq!(judge("- level: Metadata\n  omitStages: [RequestReceived]\n", rest), Pass);
    assert_eq!(
        judge("- level: Metadata\n  omitStages: [RequestReceived, ResponseComplete]\n", rest),
        Fail,
        "nothing is left"
    );
    assert_eq!(judge("  []\n", "audit-policy-file-set"), Fail, "no rules");
}

#[test]
fn audit_controls_do_not_apply_without_a_policy_and_their_sum_fails() {
    let snap = with_flag("kube-apiserver", "audit-policy-file", &[]);
    assert_eq!(status(&snap, "audit-policy-secrets-metadata-only"), NotApplicable);
    assert_eq!(status(&snap, "audit-policy-key-concerns"), Fail);
    assert_eq!(status(&snap, "audit-policy-file-set"), Fail);
}

#[test]
fn audit_log() {
    let mut snap = server();
    let set = |snap: &mut Snapshot, change: fn(&mut AuditLogFacts)| {
        let mut fresh = server();
        let Some(Observation::Value { value }) = fresh.audit_logs.get_mut("/var/log/k3s/audit.log") else { panic!() };
        change(value);
        snap.audit_logs = fresh.audit_logs;
    };
    set(&mut snap, |l| l.mtime = now() - jiff::SignedDuration::from_mins(6));
    assert_eq!(status(&snap, "audit-log-fresh"), Fail);
    set(&mut snap, |l| l.oldest_entry = Some(ago(3)));
    assert_eq!(status(&snap, "audit-log-retention-real"), Fail);
    set(&mut snap, |l| {
        l.oldest_entry = Some(ago(3));
        l.first_seen = Some(ago(4))
    });
    assert_eq!(status(&snap, "audit-log-retention-real"), Unknown, "within the grace");
    set(&mut snap, |l| {
        l.oldest_entry = Some(ago(3));
        l.first_seen = None
    });
    assert_eq!(status(&snap, "audit-log-retention-real"), Unknown, "no state of picket");
    set(&mut snap, |l| l.entries.as_mut().unwrap().secret_bodies.count = 1);
    assert_eq!(status(&snap, "audit-log-no-secret-bodies"), Fail);
    set(&mut snap, |l| l.entries.as_mut().unwrap().anonymous_allowed = vec!["/healthz/x".to_owned()]);
    assert_eq!(status(&snap, "audit-log-anonymous-allowed"), Pass);
    set(&mut snap, |l| l.entries.as_mut().unwrap().anonymous_allowed = vec!["/api".to_owned()]);
    assert_eq!(status(&snap, "audit-log-anonymous-allowed"), Fail);
    set(&mut snap, |l| l.entries.as_mut().unwrap().total = 0);
    assert_eq!(status(&snap, "audit-log-anonymous-allowed"), Unknown);
    set(&mut snap, |l| l.entries.as_mut().unwrap().unread = Some("some of it cannot be read".to_owned()));
    for control in ["audit-log-no-secret-bodies", "audit-log-anonymous-allowed", "audit-log-system-masters-use"] {
        assert_eq!(status(&snap, control), Unknown, "{control} passes on a part of the log");
    }
    set(&mut snap, |l| l.entries.as_mut().unwrap().malformed = 1);
    for control in ["audit-log-no-secret-bodies", "audit-log-anonymous-allowed", "audit-log-system-masters-use"] {
        assert_eq!(status(&snap, control), Unknown, "{control} passes although a part of the log is no entry");
    }
    set(&mut snap, |l| {
        let entries = l.entries.as_mut().unwrap();
        entries.unread = Some("some of it cannot be read".to_owned());
        entries.secret_bodies.count = 1;
    });
    assert_eq!(status(&snap, "audit-log-no-secret-bodies"), Fail, "what was read is enough");
    assert_eq!(status(&with_flag("kube-apiserver", "audit-log-path", &["-"]), "audit-log-fresh"), Unknown);
    assert!(rows(&evaluate(&snap, &policy()), "audit-log-privileged-verbs").is_empty(), "detections are not rows");
}

#[test]
fn requests_of_masters_count_unless_they_come_from_a_server() {
    let log = "/var/log/k3s/audit.log";
    let from = |snap: &mut Snapshot, ip: &str| {
        let Some(Observation::Value { value }) = snap.audit_logs.get_mut(log) else { panic!() };
        let line = format!(
            r#"{{"auditID":"1","user":{{"username":"system:admin","groups":["system:masters"]}},"sourceIPs":["{ip}"]}}"#
        );
        value.entries.as_mut().unwrap().add(line.as_bytes(), log, 7);
    };
    let control = "audit-log-system-masters-use";
    let mut snap = server();
    from(&mut snap, "127.0.0.1");
    assert_eq!(status(&snap, control), Pass);
    from(&mut snap, "10.0.0.1");
    assert_eq!(status(&snap, control), Unknown, "no address of a server is known");
    let crt = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt";
    let Some(Observation::Value { value }) = snap.certificates.get_mut(crt) else { panic!() };
    value[0].sans = vec!["kubernetes".to_owned(), "10.43.0.1".to_owned(), "10.0.0.1".to_owned()];
    assert_eq!(status(&snap, control), Pass, "the server's own address");
    from(&mut snap, "192.0.2.7");
    let row = &rows(&evaluate(&snap, &policy()), control)[0].clone();
    assert_eq!((row.status, row.evidence[0].line), (Fail, Some(7)), "{row:?}");
}

#[test]
fn an_edited_policy_is_not_loaded() {
    let mut snap = server();
    let edited = FileMeta { mtime: ago(1), ..meta(FileKind::File, 0o600) };
    snap.files.insert("/etc/rancher/audit.yaml".to_owned(), Observation::from(edited));
    assert_eq!(status(&snap, "audit-policy-loaded"), Fail);
    snap.k3s_started_at = Observation::Absent;
    assert_eq!(status(&snap, "audit-policy-loaded"), Unknown);
}
