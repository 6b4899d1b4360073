//! The OpenAPI documents: they name what is served, and what they name is served.

use std::collections::BTreeSet;

use super::*;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document(router: &Router) -> Value {
    send(router, request(Method::GET, "/api-docs/openapi.json", None, Sent::Nothing)).await.json(200)
}

/// `method path` of every operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                found.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    found
}

#[tokio::test]
async fn each_document_names_every_path_of_its_service() {
    let platform = platform(&[]).await;
    for (router, expected) in [
        (
            &platform.ap,
            &[
                "DELETE /account",
                "DELETE /account/sessions/{id}",
                "DELETE /devices/enrolments/{id}",
                "DELETE /invitations/{id}",
                "DELETE /keys/{id}",
                "DELETE /organisations/{id}",
                "DELETE /organisations/{id}/accounts/{user_id}",
                "DELETE /organisations/{id}/invitations/{invitation}",
                "DELETE /organisations/{id}/members/{user_id}",
                "GET /.well-known/jwks.json",
                "GET /account/export",
                "GET /account/sessions",
                "GET /accounts",
                "GET /consumers",
                "GET /devices/enrolments",
                "GET /devices/{producer_id}/registered",
                "GET /invitations",
                "GET /keys",
                "GET /organisations",
                "GET /organisations/{id}",
                "GET /organisations/{id}/invitations",
                "GET /organisations/{id}/plan",
                "GET /plans",
                "GET /producers",
                "GET /producers/{id}/visibility",
                "GET /registration",
                "GET /verify",
                "POST /account/logout-everywhere",
                "POST /account/password",
                "POST /account/reset",
                "POST /accounts/{id}/restore",
                "POST /accounts/{id}/revoke",
                "POST /devices/challenge",
                "POST /devices/enrol",
                "POST /devices/enrolments",
                "POST /devices/renew",
                "POST /devices/token",
                "POST /devices/{producer_id}/{device_id}/quarantine",
                "POST /devices/{producer_id}/{device_id}/restore",
                "POST /devices/{producer_id}/{device_id}/revoke",
                "POST /invitations",
                "POST /keys",
                "POST /login",
                "POST /logout",
                "POST /organisations",
                "POST /organisations/join",
                "POST /organisations/{id}/accounts/{user_id}/token",
                "POST /organisations/{id}/invitations",
                "POST /refresh",
                "POST /register",
                "PUT /devices/{producer_id}/{device_id}/labels",
                "PUT /organisations/{id}/members/{user_id}",
                "PUT /organisations/{id}/plan",
                "PUT /producers/{id}/visibility",
            ][..],
        ),
        (
            &platform.sm,
            &[
                "DELETE /unsubscribe",
                "GET /acts",
                "GET /audit",
                "GET /audit/chain",
                "GET /subscribers/{producer_id}",
                "GET /subscriptions/{consumer_id}",
                "GET /subscriptions/{id}/grant",
                "POST /subscribe",
                "POST /subscriptions/invite",
                "POST /subscriptions/{id}/approve",
                "POST /subscriptions/{id}/deny",
                "POST /subscriptions/{id}/revoke",
            ],
        ),
        (
            &platform.dsm,
            &[
                "DELETE /connections/{id}",
                "DELETE /cursors/{name}",
                "GET /connections",
                "GET /cursors",
                "GET /devices",
                "GET /devices/{producer_id}",
                "GET /erasures",
                "GET /history/{producer_id}",
                "GET /nodes",
                "GET /platform",
                "GET /retention/{producer_id}",
                "GET /stream",
                "GET /streams",
                "GET /usage",
                "POST /cursors/{name}",
                "POST /data",
                "POST /erasures",
                "PUT /retention/{producer_id}",
            ],
        ),
    ] {
        let document = document(router).await;
        let named: BTreeSet<String> = operations(&document).iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        assert_eq!(named.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    }
}

#[tokio::test]
async fn operations_behind_a_token_say_so_and_ask_for_it() {
    let platform = platform(&[]).await;
    for (router, alias) in [(&platform.ap, "/api/auth"), (&platform.sm, "/api"), (&platform.dsm, "/api")] {
        for (method, path, operation) in operations(&document(router).await) {
            let path = path.replace("{producer_id}", "1").replace("{consumer_id}", "1").replace("{name}", "n").replace("{id}", "1");
            let path = path.replace("{device_id}", "d");
            let responses = &operation["responses"];
            let by_body =
                ["/register", "/login", "/refresh", "/logout", "/devices/enrol", "/devices/renew", "/devices/token", "/account/reset"];
            let unasked = ["/.well-known/jwks.json", "/devices/challenge", "/registration"];
            let open = by_body.contains(&path.as_str()) || unasked.contains(&path.as_str());
            assert_eq!(operation.get("security").is_none(), open, "{path}");
            for path in [path.clone(), format!("{alias}{path}")] {
                let answer = send(router, request(method.parse().unwrap(), &path, None, Sent::Nothing)).await;
                let status = answer.status.as_u16();
                let expected = if unasked.iter().any(|open| path.ends_with(open)) {
                    200
                } else if open {
                    415
                } else {
                    401
                };
                assert_eq!(status, expected, "{path}");
                assert!(responses.get(status.to_string()).is_some(), "{method} {path} does not document its {status}");
            }
            for (status, response) in responses.as_object().unwrap().iter().filter(|(status, _)| status.as_str() >= "400") {
                assert!(response["content"]["application/problem+json"].is_object(), "{method} {path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn the_pages_are_reached_with_and_without_a_slash() {
    let platform = platform(&[]).await;
    for router in [&platform.ap, &platform.sm, &platform.dsm] {
        let answer = send(router, request(Method::GET, "/api-docs", None, Sent::Nothing)).await;
        assert!(answer.status.is_redirection());
        // Seen from where the page was asked for, so that it holds behind a proxy that takes a prefix off.
        assert_eq!(answer.headers[header::LOCATION], "api-docs/");
        let page = send(router, request(Method::GET, "/api-docs/", None, Sent::Nothing)).await;
        assert_eq!(page.status, 200);
        let page = page.text();
        assert!(page.contains("swagger-ui") && page.contains(r#"name="viewport""#) && !page.contains("TITLE"));
        let title = document(router).await["info"]["title"].as_str().unwrap().to_owned();
        assert!(page.contains(&format!("<title>{title}, API documentation</title>")), "{page}");
        let root = send(router, request(Method::GET, "/", None, Sent::Nothing)).await;
        assert!(root.status.is_redirection() && root.headers[header::LOCATION] == "api-docs/");
        let start = send(router, request(Method::GET, "/api-docs/swagger-initializer.js", None, Sent::Nothing)).await.text();
        assert!(start.contains(r#""openapi.json""#), "{start}");
        assert_eq!(document(router).await["servers"], serde_json::json!([{"url": ".."}]));
    }
}

#[tokio::test]
async fn the_streams_are_shown_beside_swagger_ui() {
    let platform = platform(&[]).await;
    let at = async |router, path: &str| send(router, request(Method::GET, path, None, Sent::Nothing)).await;
    let get = async |path: &str| at(&platform.dsm, path).await;
    let document = get("/api-docs/asyncapi.json").await.json(200);
    assert_eq!((&document["asyncapi"], &document["info"]["version"]), (&Value::from("3.0.0"), &Value::from(env!("CARGO_PKG_VERSION"))));
    for (router, streams) in [(&platform.ap, false), (&platform.sm, false), (&platform.dsm, true)] {
        let page = at(router, "/api-docs/").await.text();
        assert_eq!(page.contains("asyncapi.json") && page.contains("Streams"), streams, "{page}");
        // Everything that the page asks for is here, and nothing in it is a script or a style of its own.
        for part in page.split(['"']).filter(|part| [".js", ".css", ".json", ".png"].iter().any(|end| part.ends_with(end))) {
            let answer = at(router, &format!("/api-docs/{part}")).await;
            assert!(answer.status == 200 && !answer.text().is_empty(), "{part}");
        }
        assert!(!page.contains("://") && !page.contains("<style") && !page.contains("<script>"), "{page}");
        assert_eq!(page.matches("tabpanel").count(), usize::from(streams), "{page}");
    }
    assert!(get("/api-docs/index.html").await.text().contains("swagger-ui"));
    get("/api-docs/nothing.js").await.problem(404, "not_found");
}
