//! The meaning of a token's claims here.

use motience_auth::{Scope, Scopes};
use motience_proto::model::Role;
use serde_json::{Map, Value};

use crate::config::{RoleRule, ScopeRule};

/// The role that claims give. Of several the one that may do most counts.
pub(crate) fn role(rule: &RoleRule, claims: &Map<String, Value>) -> Option<Role> {
    let values = rule.claim.as_deref().map(|name| texts(claim(claims, name), false)).unwrap_or_default();
    let given: Vec<Role> = values.iter().filter_map(|value| rule.map.get(*value).copied()).collect();
    [Role::Admin, Role::Producer, Role::Consumer].into_iter().find(|role| given.contains(role)).or(rule.default)
}

/// The scopes that claims give.
pub(crate) fn scopes(rule: Option<&ScopeRule>, claims: &Map<String, Value>) -> Scopes {
    let Some(rule) = rule else { return Scopes::all() };
    let values = texts(claim(claims, &rule.claim), true);
    let ours: Vec<&str> = values.iter().filter_map(|value| value.strip_prefix(rule.prefix.as_str())).collect();
    if ours.contains(&"all") {
        return Scopes::all();
    }
    // Scopes of other services, and of newer versions, mean nothing here.
    Scopes::only(ours.iter().filter_map(|scope| scope.parse::<Scope>().ok()))
}

/// A claim by its name, or by a JSON pointer where that begins with a slash.
pub(crate) fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    let Some(path) = name.strip_prefix('/') else { return claims.get(name) };
    let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
    let first = claims.get(&steps.next()?)?;
    steps.try_fold(first, |value, step| value.get(&step))
}

/// The texts of a claim: one, a list, or one with blanks between them.
fn texts(value: Option<&Value>, with_blanks: bool) -> Vec<&str> {
    match value {
        Some(Value::String(text)) if with_blanks => text.split_ascii_whitespace().collect(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("{value} is no object") };
        map
    }

    #[test]
    fn the_strongest_role_that_is_mapped_counts() {
        let rule: RoleRule =
            serde_json::from_value(json!({"claim": "/realm_access/roles", "map": {"ops": "admin", "pi": "producer", "app": "consumer"}}))
                .unwrap();
        let of = |roles: Value| role(&rule, &object(json!({"realm_access": {"roles": roles}})));
        assert_eq!(of(json!(["app", "ops", "pi"])), Some(Role::Admin));
        assert_eq!(of(json!("pi")), Some(Role::Producer));
        assert_eq!(of(json!(["admin", "Ops", 1])), None, "only what the map names");
        assert_eq!(role(&rule, &object(json!({"roles": ["ops"]}))), None);
        let lenient: RoleRule =
            serde_json::from_value(json!({"claim": "https://x/roles", "map": {"a": "admin"}, "default": "consumer"})).unwrap();
        assert_eq!(role(&lenient, &object(json!({}))), Some(Role::Consumer));
        assert_eq!(role(&lenient, &object(json!({"https://x/roles": ["a"]}))), Some(Role::Admin), "a name may have slashes in it");
    }

    #[test]
    fn scopes_are_those_with_the_prefix() {
        let rule: ScopeRule = serde_json::from_value(json!({"prefix": "motience:"})).unwrap();
        let of = |scope: Value| scopes(Some(&rule), &object(json!({"scope": scope})));
        assert_eq!(of(json!("openid motience:publish motience:consume:7 consume motience:new")).to_string(), "publish consume:7");
        assert_eq!(of(json!(["motience:read_usage"])).to_string(), "read_usage");
        assert!(of(json!("openid motience:all")).are_all() && !of(json!("openid all")).are_all());
        assert!(!of(json!("openid")).consume_any() && !of(Value::Null).are_all());
        assert!(scopes(None, &object(json!({}))).are_all());
    }
}
