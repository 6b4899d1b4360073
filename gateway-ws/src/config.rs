//! The gateway's settings.

use std::time::Duration;

use axum::http::HeaderValue;
use motience_http::{Detail, Host, Limits, ListenAddress, Origins};
use motience_limits::rate::Rate;
use motience_settings::env::{self, Env};

use crate::certificate;

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// WebSocket producers. BIND_ADDRESS and WSS1_PORT, localhost:8001.
    pub wss1: ListenAddress,
    /// WebSocket consumers. WSS2_PORT, 8002.
    pub wss2: ListenAddress,
    /// The producers' tester page. WSS1_UI_PORT, 3010.
    pub wss1_ui: ListenAddress,
    /// The consumers' tester page. WSS2_UI_PORT, 3011.
    pub wss2_ui: ListenAddress,
    /// Whether producers and consumers connect over TLS, and only so. WSS_TLS, false.
    pub tls: bool,
    /// Where the pages find ap, on the host they were loaded from. AP_PORT, 3001.
    pub ap_port: u16,
    /// Where they find sm. SM_PORT, 3002.
    pub sm_port: u16,
    /// Where they find dsm. DSM_PORT, 3003.
    pub dsm_port: u16,
    /// Where they find ap, where that is elsewhere. PUBLIC_AP_URL.
    pub ap_url: Option<String>,
    /// Where they find sm, where that is elsewhere. PUBLIC_SM_URL.
    pub sm_url: Option<String>,
    /// Where they find dsm, where that is elsewhere. PUBLIC_DSM_URL.
    pub dsm_url: Option<String>,
    /// Where producers connect, where that is elsewhere. PUBLIC_WSS1_URL.
    pub wss1_url: Option<String>,
    /// Where consumers connect, where that is elsewhere. PUBLIC_WSS2_URL.
    pub wss2_url: Option<String>,
    /// Origins whose pages may connect; none, or `*`: any, as tokens and not cookies say who comes. WSS_ORIGINS.
    pub origins: Origins,
    /// How often a peer is pinged; one silent for two pings is closed. WSS_PING_INTERVAL, 20 s.
    pub ping: Duration,
    /// How long a peer may leave its socket full before it is closed. WSS_WRITE_LIMIT, 30 s.
    pub write: Duration,
    /// Bytes gathered for a peer before they are written. WSS_WRITE_BUFFER, 64 KiB.
    pub write_buffer: usize,
    /// Records that a device may have in flight, as over QUIC. QUIC_CREDIT, 8,192.
    pub credit: u64,
    /// Longest message of a consumer. WSS2_MAX_MESSAGE_BYTES, 16 KiB: a resume with a few hundred cursors.
    pub consumer_message: usize,
    /// What one consumer may ask for on its connection: a resume counts one for each of its cursors. RATE_LIMIT_CONTROL, 3000/m.
    pub control: Rate,
    /// Limits of the listeners.
    pub limits: Limits,
    /// What its ports tell of the node. METRICS_ON_SERVICE_PORTS.
    pub detail: Detail,
    /// What tells browsers to come by HTTPS only, on the listeners under TLS. HSTS_MAX_AGE.
    pub hsts: Option<HeaderValue>,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let host = Host::from_env(env)?;
        let port = |name: &str, default: u16| Ok::<_, env::Error>(host.at(env.parse(name, default)?));
        let url = |name: &str| env.get(name).map(|u| u.trim_end_matches('/').to_owned());
        let config = Self {
            wss1: port("WSS1_PORT", 8001)?,
            wss2: port("WSS2_PORT", 8002)?,
            wss1_ui: port("WSS1_UI_PORT", 3010)?,
            wss2_ui: port("WSS2_UI_PORT", 3011)?,
            tls: env.flag("WSS_TLS", false)?,
            ap_port: env.parse("AP_PORT", 3001)?,
            sm_port: env.parse("SM_PORT", 3002)?,
            dsm_port: env.parse("DSM_PORT", 3003)?,
            ap_url: url("PUBLIC_AP_URL"),
            sm_url: url("PUBLIC_SM_URL"),
            dsm_url: url("PUBLIC_DSM_URL"),
            wss1_url: url("PUBLIC_WSS1_URL"),
            wss2_url: url("PUBLIC_WSS2_URL"),
            origins: Origins::from_env(env, "WSS_ORIGINS")?,
            ping: env.duration("WSS_PING_INTERVAL", Duration::from_secs(20))?,
            write: env.duration("WSS_WRITE_LIMIT", Duration::from_secs(30))?,
            write_buffer: env.bytes("WSS_WRITE_BUFFER", 64 * 1024)?,
            credit: env.parse("QUIC_CREDIT", 8192)?,
            consumer_message: env.bytes("WSS2_MAX_MESSAGE_BYTES", 16 * 1024)?,
            control: env.parse("RATE_LIMIT_CONTROL", Rate::per_minute(3000))?,
            limits: Limits::from_env(env)?,
            detail: Detail::of_services(env)?,
            hsts: certificate::hsts(env)?,
        };
        if !(1024..=16 << 20).contains(&config.consumer_message) {
            return Err(env::Error::invalid("WSS2_MAX_MESSAGE_BYTES", "must lie between 1KiB and 16MiB"));
        }
        if !(4 << 10..=16 << 20).contains(&config.write_buffer) {
            return Err(env::Error::invalid("WSS_WRITE_BUFFER", "must lie between 4KiB and 16MiB"));
        }
        if config.ping.is_zero() || config.write.is_zero() {
            return Err(env::Error::invalid("WSS_PING_INTERVAL", "and WSS_WRITE_LIMIT must not be zero"));
        }
        Ok(config)
    }

    /// Its listeners, each with the setting of its port, and whether it is under TLS.
    pub fn listeners(&self) -> [(&'static str, ListenAddress, bool); 4] {
        [
            ("WSS1_PORT", self.wss1, self.tls),
            ("WSS2_PORT", self.wss2, self.tls),
            ("WSS1_UI_PORT", self.wss1_ui, false),
            ("WSS2_UI_PORT", self.wss2_ui, false),
        ]
    }

    /// How the URLs of producers and consumers begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "wss" } else { "ws" }
    }
}
