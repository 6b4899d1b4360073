//! Subscriptions: what the flow tests over sockets leave out.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_subscription_comes_goes_and_comes_back() {
    let platform = platform(&[]).await;
    let (producer, producer_token) = platform.account(Role::Producer, "p").await;
    let (consumer, token) = platform.account(Role::Consumer, "c").await;
    let subscribe = async |body: Value| platform.sm(Method::POST, "/api/subscribe", Some(&token), Sent::Json(body)).await;
    let wish = json!({"producer_id": producer.id, "consumer_id": consumer.id.to_string()});
    let made = subscribe(wish.clone()).await.json(201);
    let expected = json!({"id": made["id"], "consumer_id": consumer.id, "producer_id": producer.id, "status": "active", "created_at": made["created_at"]});
    assert_eq!(made, expected);
    assert_eq!(subscribe(json!({"producer_id": producer.id.to_string()})).await.json(200), made);

    let mine = format!("/api/subscriptions/{}", consumer.id);
    let theirs = format!("/subscribers/{}", producer.id);
    assert_eq!(platform.sm(Method::GET, &mine, Some(&token), Sent::Nothing).await.json(200), json!([made]));
    assert_eq!(platform.sm(Method::GET, &theirs, Some(&producer_token), Sent::Nothing).await.json(200), json!([made]));

    // Ended by body and by query, with the body's type named or not.
    for (path, body) in [
        ("/unsubscribe".to_owned(), Sent::Json(wish.clone())),
        (format!("/api/unsubscribe?producer_id={}", producer.id), Sent::Nothing),
        ("/unsubscribe".to_owned(), Sent::Text("text/plain", &wish.to_string())),
    ] {
        let ended = platform.sm(Method::DELETE, &path, Some(&token), body).await.json(200);
        assert_eq!((&ended["id"], &ended["status"]), (&made["id"], &json!("inactive")));
        let again = platform.sm(Method::DELETE, &path, Some(&token), Sent::Json(wish.clone())).await;
        again.problem(404, "not_found");
        assert_eq!(platform.sm(Method::GET, &mine, Some(&token), Sent::Nothing).await.json(200), json!([]));
        assert_eq!(subscribe(wish.clone()).await.json(201)["id"], made["id"]);
    }
}

#[tokio::test]
async fn others_data_is_none_of_ones_business() {
    let platform = platform(&[]).await;
    let (producer, producer_token) = platform.account(Role::Producer, "p").await;
    let (consumer, token) = platform.account(Role::Consumer, "c").await;
    for (path, token) in [
        (format!("/subscriptions/{}", producer.id), &token),
        (format!("/subscribers/{}", consumer.id), &producer_token),
        // One's own id, as the wrong kind of account.
        (format!("/subscribers/{}", consumer.id), &token),
        (format!("/subscriptions/{}", producer.id), &producer_token),
        (format!("/subscriptions/{}", i64::MAX), &token),
    ] {
        platform.sm(Method::GET, &path, Some(token), Sent::Nothing).await.problem(403, "forbidden");
        platform.sm(Method::GET, &path, None, Sent::Nothing).await.problem(401, "no_token");
        platform.sm(Method::GET, &path, Some("x.y.z"), Sent::Nothing).await.problem(401, "invalid_token");
    }
    // A JSON number however it is spelled.
    let body = json!({"producer_id": producer.id.0 as f64, "consumer_id": consumer.id});
    platform.sm(Method::POST, "/subscribe", Some(&token), Sent::Json(body)).await.json(201);
    let body = json!({"producer_id": producer.id, "consumer_id": consumer.id.0 + 1});
    platform.sm(Method::DELETE, "/unsubscribe", Some(&token), Sent::Json(body)).await.problem(403, "forbidden");
    let body = || Sent::Json(json!({"producer_id": producer.id}));
    platform.sm(Method::DELETE, "/unsubscribe", Some(&producer_token), body()).await.problem(403, "wrong_role");
    platform.sm(Method::POST, "/subscribe", None, body()).await.problem(401, "no_token");
}

#[tokio::test]
async fn ids_that_are_none_are_refused_by_name() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Consumer, "c").await;
    for id in
        [json!(1.5), json!(1e300), json!("x"), json!("-1"), json!(" 1"), json!(""), json!(null), json!([1]), json!("99999999999999999999")]
    {
        let body = Sent::Json(json!({"producer_id": id}));
        let problem = platform.sm(Method::POST, "/subscribe", Some(&token), body).await.problem(422, "invalid_field");
        assert_eq!(problem["field"], "producer_id", "{problem}");
    }
    let problem = platform.sm(Method::POST, "/subscribe", Some(&token), Sent::Json(json!({}))).await.problem(422, "invalid_field");
    assert_eq!((problem["field"].as_str(), problem["detail"].as_str()), (Some("producer_id"), Some("producer_id is missing.")));
    for path in ["/unsubscribe", "/unsubscribe?consumer_id=1"] {
        let problem = platform.sm(Method::DELETE, path, Some(&token), Sent::Nothing).await.problem(422, "invalid_field");
        assert_eq!(problem["field"], "producer_id");
    }
    for body in [json!(null), json!([1])] {
        let problem = platform.sm(Method::DELETE, "/unsubscribe", Some(&token), Sent::Json(body)).await.problem(422, "invalid_field");
        assert_eq!(problem["error"], "The body must be a JSON object.");
    }
    platform.sm(Method::DELETE, "/unsubscribe", Some(&token), Sent::Text("text/plain", "{")).await.problem(400, "malformed_json");
    let answer = platform.sm(Method::DELETE, "/unsubscribe?producer_id=x", Some(&token), Sent::Nothing).await;
    assert_eq!(answer.problem(422, "invalid_query")["field"], "producer_id");
    for path in ["/subscriptions/x", "/subscribers/1.5", "/subscriptions/%FF", "/subscriptions/99999999999999999999"] {
        let problem = platform.sm(Method::GET, path, Some(&token), Sent::Nothing).await.problem(422, "invalid_path");
        assert!(!problem["detail"].as_str().unwrap().contains("i64"), "{problem}");
    }
}
