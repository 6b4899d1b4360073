//! The body of `POST /data` as its document shows it; [`motience_proto::model::envelope`] decides what is taken.

use motience_proto::model::record::{MAX_ID, RESERVED};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{AnyOfBuilder, ArrayBuilder, SchemaType, Type},
    },
};

use crate::http::shapes;

/// One record in any form, or a keep-alive.
pub(in crate::data) struct Sent;

impl PartialSchema for Sent {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(record(&[]).description(Some(
                "A record. The device id and the time may be left out: the account's and the time of arrival then stand for them. Other members \
                 are kept and delivered as they came.",
            )))
            .item(readings(Kind::NotText))
            .item(envelope())
            .item(record(&["type", "id"]).property("type", word("data")).required("type").property("id", name()).description(Some(
                "A record that says so.",
            )))
            .item(object().property("type", word("ping")).required("type").property("id", name()).description(Some("A sign of life: no record.")))
            .examples([
                serde_json::json!({"device_id": "rpi_001", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3, "humidity": 51, "pressure": 1013.25}}),
                serde_json::json!({"temperature": 24.3, "humidity": 51}),
            ])
            .into()
    }
}

impl ToSchema for Sent {}

/// One, or some.
pub(in crate::data) struct Records;

impl PartialSchema for Records {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new().item(Sent::schema()).item(ArrayBuilder::new().items(Sent::schema())).into()
    }
}

impl ToSchema for Records {}

/// Value of `Idempotency-Key`.
pub(in crate::data) struct Key;

impl PartialSchema for Key {
    fn schema() -> RefOr<Schema> {
        let most = MAX_ID - super::Key::NUMBER;
        ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^[!-~]{{1,{most}}}$"))).into()
    }
}

impl ToSchema for Key {}

fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

/// A text that says what a message is.
fn word(word: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some([word]))
}

/// A sender's own name for a record.
fn name() -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^[!-~]{{1,{MAX_ID}}}$")));
    AnyOfBuilder::new().item(text).item(ObjectBuilder::new().schema_type(Type::Number)).into()
}

/// Any names but these.
fn names_but(names: &[&str]) -> Schema {
    Schema::Object(ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^(?!({})$)", names.join("|")))).build())
}

/// A record; `also`: names that it may have although no record has them.
fn record(also: &[&str]) -> ObjectBuilder {
    let mut reserved: Vec<&str> = RESERVED.into_iter().filter(|name| !also.contains(name)).collect();
    if also.contains(&"type") {
        // Beside a payload a message has no record of its own.
        reserved.push("payload");
    }
    let record = object().property("device_id", shapes::DeviceId::schema()).property("timestamp", shapes::Timestamp::schema());
    record
        .property("data", ObjectBuilder::new().schema_type(SchemaType::AnyValue))
        .required("data")
        .property_names(Some(names_but(&reserved)))
}

/// Values of a reading called `type`.
#[derive(Clone, Copy)]
enum Kind {
    /// A text would make a message of it.
    NotText,
    Any,
}

/// Any names but `data`. Those of a record's other members may be among them, in their own form, and beside at least one reading.
fn readings(kind: Kind) -> Schema {
    let named = |but: &[&str], least: usize| {
        let readings = object().property_names(Some(names_but(but))).min_properties(Some(least));
        match kind {
            Kind::NotText => {
                let kinds = [Type::Null, Type::Boolean, Type::Number, Type::Array, Type::Object];
                readings.property("type", ObjectBuilder::new().schema_type(SchemaType::Array(kinds.to_vec())))
            }
            Kind::Any => readings,
        }
    };
    let device = || shapes::DeviceId::schema();
    let time = || shapes::Timestamp::schema();
    let readings = AnyOfBuilder::new()
        .item(named(&["data", "device_id", "timestamp"], 0))
        .item(named(&["data", "timestamp"], 2).property("device_id", device()).required("device_id"))
        .item(named(&["data", "device_id"], 2).property("timestamp", time()).required("timestamp"))
        .item(named(&["data"], 3).property("device_id", device()).required("device_id").property("timestamp", time()).required("timestamp"))
        .description(Some("The readings themselves. A device_id and a timestamp among them are the record's; without them the account's and the time of arrival are."))
        .build();
    Schema::AnyOf(readings)
}

fn envelope() -> ObjectBuilder {
    let payload = AnyOfBuilder::new().item(record(&[])).item(readings(Kind::Any));
    let envelope = object().property("type", word("data")).required("type").property("payload", payload).required("payload");
    let envelope = envelope
        .property("id", name())
        .property_names(Some(Schema::Object(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(type|payload|id)$")).build())));
    envelope.description(Some(
        "A record or readings, with the sender's own name for it: the same name again changes nothing. A device_id and a timestamp may stand \
         beside the payload where it has none.",
    ))
}
