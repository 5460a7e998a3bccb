//! Who may call what, over real connections.

use picket_proto::v1;
use picket_service::tls::connector::Dialer;
use picket_service::tls::peer::{node_uri, operator_uri};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use crate::support::{Link, Site, epoch, identity};

/// Every method of the contract, and health and reflection.
fn methods() -> Vec<String> {
    let mut all = vec![
        "/grpc.health.v1.Health/Check".to_owned(),
        "/grpc.health.v1.Health/Watch".to_owned(),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
        "/picket.v1.Admin/NoSuchMethod".to_owned(),
    ];
    for file in prost_types::FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap().file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            all.extend(service.method.iter().map(|m| format!("/{name}/{}", m.name())));
        }
    }
    assert!(all.len() > 18, "{all:?}");
    all
}

/// Calls a method with an empty message.
async fn call(dialer: &Dialer, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(dialer.channel().unwrap());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path: PathAndQuery = path.parse().unwrap();
    grpc.unary::<(), (), _>(Request::new(()), path, tonic_prost::ProstCodec::default()).await.map(drop)
}

const ENROLL: &str = "/picket.v1.Enrollment/Enroll";

#[tokio::test]
async fn without_a_certificate_every_rpc_but_enrolling_is_refused() {
    let site = Site::start().await;
    let anyone = site.dialer(None);
    for method in methods() {
        let status = call(&anyone, &method).await.unwrap_err();
        let expected = match method.as_str() {
            // It gets through, and is told that an empty token is none.
            ENROLL => Code::PermissionDenied,
            "/picket.v1.Admin/NoSuchMethod" => Code::Unimplemented,
            _ => Code::Unauthenticated,
        };
        assert_eq!(status.code(), expected, "{method}: {status}");
    }
}

#[tokio::test]
async fn with_a_certificate_of_a_foreign_authority_every_rpc_is_refused_and_the_reason_is_known() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    // A copy of everything public: the same names, another authority.
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(ca, ca_key);
    let domain = site.app.ca.domain();
    for uri in [node_uri(domain, node.id), operator_uri(domain, &"local-admin".parse().unwrap())] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        let stranger = site.dialer(Some(identity(&chain, &key.serialize_pem())));
        for method in methods() {
            let status = call(&stranger, &method).await.unwrap_err();
            let why = stranger.explain(&status);
            assert!(why.contains("refused this side's certificate"), "{method}: {why}");
        }
    }
}

#[tokio::test]
async fn with_a_revoked_certificate_every_rpc_is_refused() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let operator = site.operator("ada", v1::OperatorRole::Admin).await;
    call(&operator, "/picket.v1.Admin/ListTokens").await.unwrap();
    Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let request = v1::RevokeNodeRequest { node: node.id.to_string(), reason: "stolen".to_owned() };
    admin.revoke_node(request).await.unwrap();
    admin.revoke_operator(v1::RevokeOperatorRequest { name: "ada".to_owned() }).await.unwrap();
    for (who, dialer) in [("node", &node.dialer), ("operator", &operator)] {
        for method in methods() {
            let status = call(dialer, &method).await.unwrap_err();
            let good = match method.as_str() {
                // Whoever was revoked is like anyone: with a new token they may come back.
                ENROLL => status.code() == Code::PermissionDenied,
                "/picket.v1.Admin/NoSuchMethod" => status.code() == Code::Unimplemented,
                _ => matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied),
            };
            assert!(good, "{who} {method}: {status}");
        }
    }
    let status = Link::hello(&site, &node, epoch(1), 1).await.err().unwrap();
    assert!(status.message().contains("revoked"), "{status}");
}

#[tokio::test]
async fn each_role_may_do_its_part_and_no_more() {
    let site = Site::start().await;
    let node = site.node("edge-1").await.dialer;
    let viewer = site.operator("viewer", v1::OperatorRole::Viewer).await;
    let operator = site.operator("operator", v1::OperatorRole::Operator).await;
    let admin = site.operator("admin", v1::OperatorRole::Admin).await;
    for (method, allowed) in [
        ("/picket.v1.Fleet/ListNodes", [false, true, true, true]),
        ("/picket.v1.Fleet/ListFindings", [false, true, true, true]),
        ("/picket.v1.Fleet/ListDetections", [false, true, true, true]),
        ("/picket.v1.Fleet/ListHistory", [false, true, true, true]),
        ("/picket.v1.Admin/ListTokens", [false, false, true, true]),
        ("/picket.v1.Admin/CreateToken", [false, false, true, true]),
        ("/picket.v1.Admin/RevokeToken", [false, false, true, true]),
        ("/picket.v1.Admin/RevokeNode", [false, false, false, true]),
        ("/picket.v1.Admin/CreateOperator", [false, false, false, true]),
        ("/picket.v1.Admin/ListOperators", [false, false, false, true]),
        ("/picket.v1.Admin/RevokeOperator", [false, false, false, true]),
        ("/picket.v1.Enrollment/Renew", [true, false, false, false]),
        ("/grpc.health.v1.Health/Check", [true, true, true, true]),
    ] {
        for (dialer, allowed) in [&node, &viewer, &operator, &admin].into_iter().zip(allowed) {
            // An empty request may be refused for what it lacks, but then it got through.
            let denied = call(dialer, method).await.is_err_and(|s| s.code() == Code::PermissionDenied);
            assert_eq!(denied, !allowed, "{method}");
        }
    }
    for dialer in [&viewer, &operator, &admin] {
        assert_eq!(call(dialer, "/picket.v1.Uplink/Report").await.unwrap_err().code(), Code::PermissionDenied);
    }
}

#[tokio::test]
async fn reflection_lists_the_services_for_an_operator() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let site = Site::start().await;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(site.admin().await);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.into_inner().message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    for service in ["picket.v1.Fleet", "picket.v1.Uplink", "grpc.health.v1.Health"] {
        assert!(names.contains(&service.to_owned()), "{names:?}");
    }
}
