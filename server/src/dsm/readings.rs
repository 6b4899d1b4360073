//! What `POST /data` takes beside whole records, as its document shows it: an object that is the readings themselves.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{AnyOfBuilder, Type},
    },
};

use crate::http::shapes;

/// Bare readings: see [`motience_shared::model::record::admit`], which decides.
pub(super) struct Readings;

impl PartialSchema for Readings {
    /// Any names but `data`. Those of a record's other members may be among them, in their own form, and beside at least one reading.
    fn schema() -> RefOr<Schema> {
        let named = |pattern: &str, least: usize| {
            let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build();
            ObjectBuilder::new().schema_type(Type::Object).property_names(Some(Schema::Object(name))).min_properties(Some(least))
        };
        let device = || shapes::DeviceId::schema();
        let time = || shapes::Timestamp::schema();
        AnyOfBuilder::new()
            .item(named("^(?!(data|device_id|timestamp)$)", 0))
            .item(named("^(?!(data|timestamp)$)", 2).property("device_id", device()))
            .item(named("^(?!(data|device_id)$)", 2).property("timestamp", time()))
            .item(named("^(?!data$)", 3).property("device_id", device()).property("timestamp", time()))
            .description(Some("The readings themselves. The device and the time are the account's and that of the arrival."))
            .examples([serde_json::json!({"temperature": 24.3, "humidity": 51})])
            .into()
    }
}

impl ToSchema for Readings {}
