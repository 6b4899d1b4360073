//! The grammar and its errors, and the selection against the plainest possible one: over values as serde_json builds them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn message(data: &Value) -> Bytes {
    text(&data.to_string())
}

fn text(data: &str) -> Bytes {
    format!(r#"{{"producer_id":"7","device_id":"rpi \"1\"","timestamp":"2025-01-29T11:35:00Z","data":{data}}}"#).into()
}

fn passes(condition: &str, message: &Bytes) -> bool {
    Selector::parse(&[condition], None, None).unwrap_or_else(|e| panic!("{e}")).apply(message).is_some()
}

fn kept(fields: &str, data: &Value) -> Value {
    let selector = Selector::parse(&[], Some(fields), None).unwrap();
    let shown: Value = serde_json::from_slice(&selector.apply(&message(data)).unwrap()).unwrap();
    assert_eq!(shown["device_id"], "rpi \"1\"");
    assert_eq!((&shown["producer_id"], &shown["timestamp"]), (&json!("7"), &json!("2025-01-29T11:35:00Z")));
    shown["data"].clone()
}

#[test]
fn comparisons_hold_of_what_they_should() {
    let reading = message(&json!({
        "temperature": 30.5, "count": 9_007_199_254_740_993_i64, "state": "öffen\n", "on": true, "none": null,
        "a/b": {"~": [1, {"x": -2}]}, "a=b": 1, "list": [],
    }));
    for good in [
        "/data/temperature>30",
        " /data/temperature >= 30.5 ",
        "/data/temperature<3.06e1",
        "/data/temperature != \"30.5\"",
        "/data/count=9007199254740993",
        "/data/count>9007199254740992",
        r#"/data/state="öffen\n""#,
        r#"/data/state>"a""#,
        "/data/on=true",
        "/data/on==true",
        "/data/none=null",
        "/data/on!=null",
        "/data/list!=1",
        "/data/a~1b/~0/1/x<-1",
        r#""/data/a=b"=1"#,
        "/data!=1",
        r#"/device_id="rpi \"1\"""#,
        r#"/producer_id="7""#,
        r#"/timestamp>="2025-01-29T12:35:00+01:00""#,
        "/timestamp=1738150500000",
        r#"/timestamp<"2025-01-29T11:35:01Z""#,
    ] {
        assert!(passes(good, &reading), "{good}");
    }
    for bad in [
        "/data/temperature>30.5",
        "/data/temperature=\"30.5\"",
        "/data/count=9007199254740992",
        "/data/state>1",
        "/data/on=false",
        "/data/missing=null",
        "/data/missing!=1",
        "/data/missing<1",
        "/data/list/0=1",
        "/data/a~1b/~0/01/x<0",
        "/data/temperature/x!=1",
        r#"/device_id="rpi""#,
    ] {
        assert!(!passes(bad, &reading), "{bad}");
    }
    let both = Selector::parse(&["/data/temperature>30", "/data/on=false"], None, None).unwrap();
    assert_eq!(both.apply(&reading), None, "all of them must hold");
}

#[test]
fn of_a_name_that_is_there_twice_the_last_counts() {
    let twice = text(r#"{"t":1, "u":{"x":1}, "t" : 50, "u":{"y":2}}"#);
    assert!(passes("/data/t=50", &twice) && !passes("/data/t=1", &twice));
    assert!(!passes("/data/u/x=1", &twice), "as for every reader of JSON");
    assert!(passes("/data/u/y=2", &twice));
}

#[test]
fn fields_keep_their_shape() {
    let data = json!({"t": 24.3, "h": 51, "at": {"lat": 1, "lon": 2, "fix": {"n": 7}}, "v": [1, [2, 3], 4], "s": "x"});
    for (fields, expected) in [
        ("/data/t", json!({"t": 24.3})),
        ("/data/t , /data/h", json!({"t": 24.3, "h": 51})),
        ("/data/at/lat,/data/at/fix/n", json!({"at": {"lat": 1, "fix": {"n": 7}}})),
        ("/data/at,/data/at/lat", json!({"at": data["at"]})),
        ("/data/v/1/1,/data/v/0", json!({"v": [1, [null, 3]]})),
        ("/data/v/9,/data/missing,/data/t/below", json!({"v": []})),
        ("/data/at/nothing", json!({"at": {}})),
        ("/device_id", json!({})),
        ("/data", data.clone()),
        (r#""/data/s""#, json!({"s": "x"})),
    ] {
        assert_eq!(kept(fields, &data), expected, "{fields}");
    }
    assert_eq!(kept("/data/t", &json!(5)), json!(null));
    assert_eq!(kept("/data/1", &json!([5, 6, 7])), json!([null, 6]));
}

#[test]
fn an_error_points_at_the_character() {
    for (parameter, expression, column, word) in [
        ("where", "", 1, "begins here with `/`"),
        ("where", "data/t>1", 1, "begins here with `/`"),
        ("where", "/temperature>30", 2, "/device_id"),
        ("where", "/device_id/x=1", 11, "nothing below"),
        ("where", "/data/t", 8, "a comparison"),
        ("where", "/data/t ! 3", 9, "a comparison"),
        ("where", "/data/t>>30", 9, "a number"),
        ("where", "/data/t>", 9, "a number"),
        ("where", "/data/t>3 0", 11, "end here"),
        ("where", "/data/ö>3x", 10, "end here"),
        ("where", "/data/t>1.", 10, "no JSON"),
        ("where", "/data/t>007", 10, "no JSON"),
        ("where", "/data/s=open", 9, "quotes"),
        ("where", "/data/s=\"open", 14, "not closed"),
        ("where", "/data/s=\"a\\x\"", 12, "no JSON"),
        ("where", "/data/t~2=1", 8, "~0"),
        ("where", "/data/t>true", 9, "= and !="),
        ("where", "/timestamp>\"yesterday\"", 12, "a time"),
        ("where", "/timestamp>-5", 12, "a time"),
        ("where", "\"/date/t\"=1", 1, "/device_id"),
        ("fields", "", 1, "begins here"),
        ("fields", "/data/t,", 9, "begins here"),
        ("fields", "/data/t /data/h", 9, "end here"),
        ("fields", "/data/t,temperature", 9, "begins here"),
        ("every", "soon", 1, "500ms"),
        ("every", "", 1, "500ms"),
        ("every", "10 s", 4, "end here"),
        ("every", "10w", 3, "units"),
        ("every", "0s", 1, "100ms"),
        ("every", "99999999999999999999s", 1, "100ms"),
        ("every", "25h", 1, "24h"),
    ] {
        let refused = match parameter {
            "where" => Selector::parse(&["/data/fine=1", expression], None, None),
            "fields" => Selector::parse(&[], Some(expression), None),
            _ => Selector::parse(&[], None, Some(expression)),
        };
        let error = refused.expect_err(expression);
        assert_eq!((error.parameter, error.column, error.expression.as_str()), (parameter, column, expression), "{error}");
        assert!(error.problem.contains(word), "{error}");
        assert_eq!(error.caret().len(), column);
    }
    let many = vec!["/data/t=1"; MAX_CONDITIONS + 1];
    assert!(Selector::parse(&many, None, None).is_err());
    assert!(Selector::parse(&[], Some(&vec!["/data/t"; MAX_FIELDS + 1].join(",")), None).is_err());
    assert!(Selector::parse(&[&format!("/data/{}", "x".repeat(20_000))], None, None).is_err());
}

#[test]
fn lengths_of_time_have_units() {
    for (every, millis) in [("500ms", 500), ("10s", 10_000), ("10", 10_000), (" 5m ", 300_000), ("1h", 3_600_000)] {
        assert_eq!(Selector::parse(&[], None, Some(every)).unwrap().every(), Some(Duration::from_millis(millis)));
    }
    assert!(Selector::parse(&[], None, None).unwrap().is_everything());
    assert!(Selector::of(&Selection::default()).unwrap().is_everything());
}

fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..3_i64).prop_map(Value::from),
        (-6..6_i64).prop_map(|n| Value::from(n as f64 / 2.0)),
        "[ab\"\\\\\n]{0,2}".prop_map(Value::from),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    scalars().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(names(), inner, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("0".to_owned()), Just("1".to_owned()), Just("~/".to_owned()), Just(" =,".to_owned())]
}

fn pointers() -> impl Strategy<Value = String> {
    proptest::collection::vec(names(), 0..4).prop_map(|names| {
        names.iter().fold("/data".to_owned(), |pointer, name| format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")))
    })
}

fn quoted(pointer: &str) -> String {
    Value::from(pointer).to_string()
}

proptest! {
    #[test]
    fn conditions_are_what_they_are_on_built_values(data in values(), pointer in pointers(), sign in 0..6_usize, value in scalars()) {
        let ordered = value.is_number() || value.is_string();
        let sign = ["=", "!=", "<", "<=", ">", ">="][if ordered { sign } else { sign % 2 }];
        let order = |a: &Value, b: &Value| match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().unwrap().partial_cmp(&b.as_f64().unwrap()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
        };
        let expected = json!({"data": data}).pointer(&pointer).is_some_and(|found| {
            let order = order(found, &value);
            match sign {
                "=" => order.is_some_and(std::cmp::Ordering::is_eq),
                "!=" => order.is_none_or(std::cmp::Ordering::is_ne),
                "<" => order.is_some_and(std::cmp::Ordering::is_lt),
                "<=" => order.is_some_and(std::cmp::Ordering::is_le),
                ">" => order.is_some_and(std::cmp::Ordering::is_gt),
                _ => order.is_some_and(std::cmp::Ordering::is_ge),
            }
        });
        let condition = format!("{}{sign}{value}", quoted(&pointer));
        prop_assert_eq!(passes(&condition, &message(&data)), expected, "{} on {}", condition, data);
    }

    #[test]
    fn what_is_kept_is_found_where_it_was(data in values(), pointers in proptest::collection::vec(pointers(), 1..4)) {
        let fields = pointers.iter().map(|pointer| quoted(pointer)).collect::<Vec<_>>().join(",");
        let selector = Selector::parse(&[], Some(&fields), None).unwrap();
        let shown: Value = serde_json::from_slice(&selector.apply(&message(&data)).unwrap()).unwrap();
        let whole = json!({"data": data});
        for pointer in &pointers {
            match whole.pointer(pointer) {
                Some(value) => prop_assert_eq!(shown.pointer(pointer), Some(value)),
                // A place that became null stands for an element that is there.
                None => prop_assert!(shown.pointer(pointer).is_none(), "{} of {}: {}", pointer, whole, shown),
            }
        }
        prop_assert!(shown.to_string().len() <= message(&data).len() + 5 * data.to_string().len());
    }

    #[test]
    fn no_expression_panics_and_columns_lie_within(expression in "[/dat~0\"\\\\=!<>,.1-9e µ\t]{0,20}|.{0,30}", prefix in "|/data/|/timestamp=|\"") {
        let expression = format!("{prefix}{expression}");
        for refused in [Selector::parse(&[&expression], None, None), Selector::parse(&[], Some(&expression), None), Selector::parse(&[], None, Some(&expression))] {
            if let Err(error) = refused {
                prop_assert!((1..=expression.chars().count() + 1).contains(&error.column), "{:?}", error);
            }
        }
    }
}
