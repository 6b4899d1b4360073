//! The document holds together: references lead somewhere, examples fit their schemas, and what is pinned elsewhere is said here.

use std::collections::BTreeSet;

use super::*;

/// The part of the document that a reference names.
fn resolve<'d>(document: &'d Value, reference: &str) -> &'d Value {
    let found = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| match member.as_str() {
            Some(reference) if name == "$ref" => {
                found.insert(reference.to_owned());
            }
            _ => references(member, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// Whether a value fits a schema, as far as this document uses JSON Schema; any other keyword is a failure.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, wanted)| match keyword.as_str() {
        "$ref" => fits(document, resolve(document, wanted.as_str().unwrap()), value),
        "description" => true,
        "const" => value == wanted,
        "enum" => wanted.as_array().unwrap().contains(value),
        "oneOf" => wanted.as_array().unwrap().iter().filter(|one| fits(document, one, value)).count() == 1,
        "type" => match wanted {
            Value::Array(kinds) => kinds.iter().any(|kind| is_kind(kind.as_str().unwrap(), value)),
            kind => is_kind(kind.as_str().unwrap(), value),
        },
        "minimum" => value.as_f64().is_none_or(|n| n >= wanted.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|s| s.chars().count() as u64 >= wanted.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|s| s.chars().count() as u64 <= wanted.as_u64().unwrap()),
        // Digits, hexadecimal digits, ranges and codes: what matters is that none is empty of what it names.
        "pattern" => value.as_str().is_none_or(|s| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-,_".contains(&b))),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(document, wanted, item))),
        "required" => {
            value.as_object().is_none_or(|o| wanted.as_array().unwrap().iter().all(|name| o.contains_key(name.as_str().unwrap())))
        }
        "properties" => value.as_object().is_none_or(|o| o.iter().all(|(name, v)| wanted.get(name).is_none_or(|s| fits(document, s, v)))),
        "additionalProperties" => value.as_object().is_none_or(|o| {
            let known = |name: &str| schema["properties"].get(name).is_some();
            o.iter()
                .filter(|(name, _)| !known(name))
                .all(|(_, v)| if wanted.is_boolean() { wanted == true } else { fits(document, wanted, v) })
        }),
        other => panic!("{other} is not looked at"),
    })
}

fn is_kind(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        other => panic!("{other} is no kind of this document"),
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_part_is_used() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        resolve(&document, reference);
    }
    for part in ["messages", "schemas"] {
        for name in document["components"][part].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/{part}/{name}")), "nothing uses {part}/{name}");
        }
    }
    for channel in document["channels"].as_object().unwrap().keys() {
        assert!(found.contains(&format!("#/channels/{channel}")), "no operation is on {channel}");
    }
}

#[test]
fn every_message_has_an_example_that_fits() {
    let document = document();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            assert!(fits(&document, &message["payload"], &example["payload"]), "{name}: {example}");
        }
        assert!(!fits(&document, &message["payload"], &Value::from(7)), "{name} takes anything");
    }
}

#[test]
fn operations_are_of_their_channels() {
    let document = document();
    assert_eq!(document["asyncapi"], "3.0.0");
    for (name, operation) in document["operations"].as_object().unwrap() {
        assert!(["send", "receive"].contains(&operation["action"].as_str().unwrap()), "{name}");
        let channel = operation["channel"]["$ref"].as_str().unwrap();
        for message in operation["messages"].as_array().unwrap() {
            assert!(message["$ref"].as_str().unwrap().starts_with(&format!("{channel}/messages/")), "{name}");
        }
    }
}
