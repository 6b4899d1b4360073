//! The parameters of a stream as its document shows them. The parsers in `cursors`, `query` and `relay::pipeline` decide; they also take
//! blanks and JSON's escapes, which the patterns leave out.

use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, Required, Schema, SchemaFormat,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{AnyOfBuilder, ArrayBuilder, Type},
    },
};

use crate::http::shapes;

/// Most ids that a stream's document names at once; STREAM_MAX_PRODUCERS says how many are taken.
const MORE_IDS: &str = "{0,99}";

fn text(pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern))
}

/// `1,2`
pub(super) struct Producers;

impl PartialSchema for Producers {
    fn schema() -> RefOr<Schema> {
        text(&format!("^[1-9][0-9]{{0,17}}(,[1-9][0-9]{{0,17}}){MORE_IDS}$")).into()
    }
}

/// `true` or `false`
pub(super) struct Flag;

impl PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true", "false"])).into()
    }
}

/// `received` or `device`
pub(super) struct By;

impl PartialSchema for By {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["received", "device"])).into()
    }
}

/// `log` or `device`
pub(super) struct Order;

impl PartialSchema for Order {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["log", "device"])).into()
    }
}

/// The name of a cursor.
pub(super) struct CursorName;

impl PartialSchema for CursorName {
    fn schema() -> RefOr<Schema> {
        text("^[A-Za-z0-9._-]{1,64}$").into()
    }
}

/// A start position as text.
pub(super) struct StartText;

impl PartialSchema for StartText {
    fn schema() -> RefOr<Schema> {
        const CURSOR: &str = "[0-9]{1,18}-[0-9]{1,18}";
        const ID: &str = "[1-9][0-9]{0,17}";
        AnyOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["live", "earliest"])))
            .item(ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
            .item(text(shapes::MILLISECONDS).description(Some("Milliseconds since 1970")))
            .item(text(shapes::LOCAL_TIME).description(Some("A time in UTC")))
            .item(text("^[0-9]{1,18}-[0-9]{1,18}$").description(Some("A cursor")))
            .item(text("^@[0-9]{1,18}$").description(Some("An offset of the log's present life")))
            .item(text(&format!("^{ID}:{CURSOR}(,{ID}:{CURSOR}){MORE_IDS}$")).description(Some("A cursor for each producer")))
            .item(text(&format!(r#"^\{{("{ID}":"{CURSOR}"(,"{ID}":"{CURSOR}"){MORE_IDS})?\}}$"#)).description(Some("The same as JSON")))
            .into()
    }
}

/// The header that browsers resume with. By hand, because what can be left out in a header counts as nullable otherwise.
pub(super) struct LastEventId;

impl IntoParams for LastEventId {
    fn into_params(_place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        // An empty one says nothing.
        let nothing = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([""]));
        let parameter = ParameterBuilder::new()
            .name("last-event-id")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("The last `id` seen; wins over `from`"))
            .schema(Some(AnyOfBuilder::new().item(nothing).item(StartText::schema())));
        vec![parameter.build()]
    }
}

/// `/data/temperature>30`
pub(crate) struct Conditions;

impl PartialSchema for Conditions {
    fn schema() -> RefOr<Schema> {
        const POINTER: &str = "/(device_id|producer_id|data(/([#-.0-;?-}]|~[01])*)*)";
        const VALUE: &str = r#"(-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?|"[ !#-\[\]-~]*")"#;
        let condition = text(&format!("^{POINTER}((=|!=|<=|>=|<|>){VALUE}|(=|!=)(true|false|null))$"));
        ArrayBuilder::new().items(condition).max_items(Some(motience_relay::pipeline::selection::MAX_CONDITIONS)).into()
    }
}

/// `/data/temperature,/data/humidity`
pub(crate) struct Fields;

impl PartialSchema for Fields {
    fn schema() -> RefOr<Schema> {
        const POINTER: &str = r"/data(/([#-+\-.0-;?-}]|~[01])*)*";
        text(&format!("^{POINTER}(,{POINTER})*$")).into()
    }
}

/// `10s`: from 100ms to 24h.
pub(crate) struct Every;

impl PartialSchema for Every {
    fn schema() -> RefOr<Schema> {
        const SECONDS: &str = "([1-9][0-9]{0,3}|[1-7][0-9]{4}|8[0-5][0-9]{3}|86[0-3][0-9]{2}|86400)s?";
        text(&format!("^([1-9][0-9]{{2,6}}ms|{SECONDS}|[1-9][0-9]{{0,2}}m|1[0-9]h|2[0-4]h|[1-9]h)$")).into()
    }
}

/// `subscriptions`.
pub(crate) struct Events;

impl PartialSchema for Events {
    fn schema() -> RefOr<Schema> {
        text("^subscriptions$").into()
    }
}

impl ToSchema for Flag {}
impl ToSchema for By {}
impl ToSchema for Order {}
impl ToSchema for CursorName {}
impl ToSchema for Producers {}
impl ToSchema for StartText {}
impl ToSchema for Conditions {}
impl ToSchema for Fields {}
impl ToSchema for Every {}
impl ToSchema for Events {}
