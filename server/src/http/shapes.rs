//! Shapes that several operations show or take.

use motience_http::ApiError;
use motience_proto::model::{self, ids::MAX_DEVICE_ID};
use motience_store::{MAX_PAGE, Page};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat,
        schema::{AnyOfBuilder, Type},
    },
};

/// An error: RFC 9457, with a stable `code`, and `error` for legacy clients.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "This username is taken.", "code": "username_taken", "error": "This username is taken."}))]
pub(crate) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// Stable, for programs.
    code: String,
    /// Equal to `detail`.
    error: String,
    /// The field that is out of bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// An account.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 1, "username": "producer1", "role": "producer", "device_id": "rpi_001", "created_at": "2025-01-29T11:35:00Z"}))]
pub(crate) struct User {
    id: i64,
    username: String,
    role: String,
    #[schema(required)]
    device_id: Option<String>,
    /// Whether it may speak for that device only; left out where it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict_device: Option<bool>,
    /// Who may see it, where it is a producer and not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(listed|private)$")]
    visibility: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

/// An account as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 1, "username": "producer1", "role": "producer", "device_id": "rpi_001", "created_at": "2025-01-29T11:35:00Z", "revoked_at": null}))]
pub(crate) struct Account {
    id: i64,
    username: String,
    role: String,
    #[schema(required)]
    device_id: Option<String>,
    /// Whether it may speak for that device only; left out where it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict_device: Option<bool>,
    /// Who may see it, where it is a producer that says so itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(open|listed|private)$")]
    visibility: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was revoked; `null`: it is open.
    #[schema(required, format = DateTime)]
    revoked_at: Option<String>,
}

/// A subscription. Members from `requested_at` on are there where consent has set them.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 1, "consumer_id": 2, "producer_id": 1, "status": "active", "created_at": "2025-01-29T11:35:00Z"}))]
pub(crate) struct Subscription {
    id: i64,
    consumer_id: i64,
    producer_id: i64,
    #[schema(pattern = "^(requested|invited|active|denied|revoked|expired|inactive)$")]
    status: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// When the consumer asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    requested_at: Option<String>,
    /// When the producer, or an operator for it, decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    decided_at: Option<String>,
    /// The account that decided; left out where it was the operator's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<i64>,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// The producer's consent, where it has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<ConsentGrant>,
}

/// A producer's consent: who grants what to whom, from when to when. Its names are those of DIMO's SACD.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"grantor": {"id": 1, "name": "producer1"}, "grantee": {"id": 2, "name": "consumer1"}, "effectiveAt": "2025-01-29T11:35:00Z",
    "expiresAt": "2030-01-01T00:00:00Z", "agreements": [{"type": "stream", "devices": ["rpi_001"], "since": "7d"}]}))]
pub(crate) struct ConsentGrant {
    /// The producer.
    grantor: Party,
    /// The consumer.
    grantee: Party,
    #[schema(format = DateTime)]
    effective_at: String,
    /// When it ends by itself; left out: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Its limits; none: everything.
    agreements: Vec<Agreement>,
}

/// One side of a grant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Party {
    id: i64,
    /// `null`: the account is gone.
    #[schema(required)]
    name: Option<String>,
}

/// Limits of a grant. A member that is left out limits nothing; `where`, `fields` and `every` are written as for `GET /stream`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Agreement {
    /// Always `stream`.
    #[schema(pattern = "^stream$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    /// Records of these devices only.
    #[schema(min_items = 1, max_items = 1000, value_type = Option<Vec<DeviceId>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<String>>,
    /// Conditions that a record must meet, all of them.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 32, example = json!(["/data/temperature>-40"]))]
    conditions: Option<Vec<String>>,
    /// Members of `data` that are shown, with commas between. Nothing is shown beside device, time and data then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/data/temperature,/data/humidity")]
    fields: Option<String>,
    /// The last value of each device in each such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "10s")]
    every: Option<String>,
    /// How far back: a time, a length such as `7d` (from a minute on), or `now`, which is the time of the approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "7d")]
    since: Option<String>,
    /// Most connections of the consumer that receive these records at once, on each node.
    #[schema(minimum = 1, maximum = 4_294_967_295_i64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<i64>,
}

/// A part of a list.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen.
    #[param(minimum = 0)]
    after: Option<i64>,
}

impl Paging {
    /// A part asked for beside other parameters.
    pub(crate) fn new(limit: Option<i64>, after: Option<i64>) -> Self {
        Self { limit, after }
    }

    /// Checks the bounds.
    pub(crate) fn page(self) -> Result<Page, ApiError> {
        let limit = self.limit.unwrap_or(i64::from(MAX_PAGE));
        let limit = u32::try_from(limit).ok().filter(|l| (1..=MAX_PAGE).contains(l));
        let limit = limit.ok_or_else(|| ApiError::invalid("limit", format!("limit must lie between 1 and {MAX_PAGE}.")))?;
        let after = self.after.unwrap_or(0);
        if after < 0 {
            return Err(ApiError::invalid("after", "after must not be negative."));
        }
        Ok(Page { after, limit })
    }
}

/// A text as it stands in a query.
pub(crate) fn in_query(text: &str) -> String {
    let written = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(written).collect()
}

/// An id as clients write it: a JSON number, or a string of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) i64);

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
        let number = number.minimum(Some(i64::MIN)).maximum(Some(i64::MAX));
        OneOfBuilder::new().item(number).item(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,18}$"))).into()
    }
}

impl ToSchema for Id {}

/// A device's id.
pub(crate) struct DeviceId;

impl PartialSchema for DeviceId {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_DEVICE_ID));
        text.pattern(Some(r"^[^\x00-\x1F\x7F-\x9F]+$")).description(Some("Without control characters")).into()
    }
}

impl ToSchema for DeviceId {}

/// A device's time, in the forms that records may have it in.
pub(crate) struct Timestamp;

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        let millis = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(0))
            .maximum(Some(LAST_MILLISECOND))
            .description(Some("Milliseconds since 1970"));
        let written = |pattern: &str| ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        AnyOfBuilder::new().item(text).item(millis).item(written(LOCAL_TIME)).item(written(MILLISECONDS)).into()
    }
}

/// A time without an offset, which is of UTC; with a `T` or a blank.
pub(crate) const LOCAL_TIME: &str =
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?$";
/// Milliseconds since 1970, as text.
pub(crate) const MILLISECONDS: &str = "^[0-9]{1,14}$";

impl ToSchema for Timestamp {}

/// A time in a query.
pub(crate) struct Time;

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        AnyOfBuilder::new()
            .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
            .item(text().pattern(Some(LOCAL_TIME)))
            .item(text().pattern(Some(MILLISECONDS)))
            .into()
    }
}

impl ToSchema for Time {}

/// The last of the year 9999.
const LAST_MILLISECOND: i64 = 253_402_300_799_999;

/// Up to here a floating-point number is exactly the integer that was written.
const EXACT: f64 = (1_u64 << 53) as f64;

/// Reads a whole number, or none. JSON has one kind of number: 7.0 is 7.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Float(f64),
    }

    let written = Option::<Written>::deserialize(deserializer).map_err(|_| de::Error::custom("this has to be a whole number"))?;
    match written {
        None => Ok(None),
        Some(Written::Number(n)) => Ok(Some(n)),
        Some(Written::Float(n)) if n.fract() == 0.0 && (0.0..EXACT).contains(&n) => Ok(Some(n as u64)),
        Some(Written::Float(_)) => Err(de::Error::custom("this has to be a whole number")),
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            // JSON has one kind of number: 7.0 is 7.
            Float(f64),
            Text(String),
        }

        let number = match Written::deserialize(deserializer) {
            Ok(Written::Number(n)) => Some(n),
            Ok(Written::Float(n)) if n.fract() == 0.0 && n.abs() < EXACT => Some(n as i64),
            Ok(Written::Text(text)) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Ok(_) => None,
            // That there is none at all: the reader names the field.
            Err(e) if e.to_string().starts_with("missing field") => return Err(e),
            Err(_) => None,
        };
        number.map(Self).ok_or_else(|| de::Error::custom("an id is a number or a string of digits"))
    }
}

impl From<Id> for model::ProducerId {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}

impl From<Id> for model::ConsumerId {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}
