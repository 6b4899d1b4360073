//! The gateway's settings.

use std::time::Duration;

use motience_http::{Detail, Limits, ListenAddress, Listening, Origins, ServicePorts};
use motience_settings::env::{Value, settings};
use serde::Serialize;

use crate::certificate::Hsts;

settings! {
    /// Settings of the gateway.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// wss1: producers over WebSocket.
        WSS1_PORT = "8001" => wss1_port: u16;
        /// wss2: consumers over WebSocket.
        WSS2_PORT = "8002" => wss2_port: u16;
        /// The producers' tester page.
        WSS1_UI_PORT = "3010" => wss1_ui_port: u16;
        /// The console, and the consumers' tester page.
        WSS2_UI_PORT = "3011" => wss2_ui_port: u16;
        /// Whether producers and consumers connect over TLS (wss://), and only so. The certificate is that of QUIC.
        WSS_TLS = "false" => tls: bool;
        /// How often a peer is pinged. One that is silent for two pings is closed.
        WSS_PING_INTERVAL = "20s" => ping: Duration, > 0;
        /// How long a peer may leave its socket full before it is closed. The shorter of this and HTTP_WRITE_LIMIT holds.
        WSS_WRITE_LIMIT = "30s" => write: Duration, > 0;
        /// Bytes gathered for a peer before they are written.
        WSS_WRITE_BUFFER = "64KiB" => write_buffer: usize as Size, "4KiB"..="16MiB";
        /// Longest message of a consumer: 16 KiB is a resume with a few hundred cursors.
        WSS2_MAX_MESSAGE_BYTES = "16KiB" => consumer_message: usize as Size, "1KiB"..="16MiB";
        /// Origins whose pages may connect. Nothing, or `*`, is any: tokens and not cookies say who connects.
        WSS_ORIGINS = "" => origins: Origins;
    }
    with {
        /// The address that everything listens on.
        listening: Listening,
        /// Where the pages find the services, on the host they were loaded from.
        services: ServicePorts,
        /// Where the pages find them, where that is elsewhere.
        public: PublicUrls,
        /// Limits of one session.
        session: motience_session::Limits,
        /// Limits of the listeners.
        limits: Limits,
        /// How much its ports tell of the node.
        detail: Detail,
        /// Tells browsers to come by HTTPS only, on the listeners under TLS.
        hsts: Hsts,
    }
}

settings! {
    /// Where the pages find everything, where that is not on the host they were loaded from.
    #[derive(Clone, Debug)]
    pub struct PublicUrls {
        /// Where the pages find ap, where that is not AP_PORT of the host they came from.
        PUBLIC_AP_URL => ap: Option<PublicUrl>;
        /// Likewise sm.
        PUBLIC_SM_URL => sm: Option<PublicUrl>;
        /// Likewise dsm.
        PUBLIC_DSM_URL => dsm: Option<PublicUrl>;
        /// Likewise the socket of producers.
        PUBLIC_WSS1_URL => wss1: Option<PublicUrl>;
        /// Likewise the socket of consumers.
        PUBLIC_WSS2_URL => wss2: Option<PublicUrl>;
    }
}

/// The beginning of addresses, without a slash at its end.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct PublicUrl(pub String);

impl Value for PublicUrl {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl Config {
    /// Where WebSocket producers connect.
    pub fn wss1(&self) -> ListenAddress {
        self.listening.host.at(self.wss1_port)
    }

    /// Where WebSocket consumers connect.
    pub fn wss2(&self) -> ListenAddress {
        self.listening.host.at(self.wss2_port)
    }

    /// Where the producers' tester page is.
    pub fn wss1_ui(&self) -> ListenAddress {
        self.listening.host.at(self.wss1_ui_port)
    }

    /// Where the console and the consumers' tester page are.
    pub fn wss2_ui(&self) -> ListenAddress {
        self.listening.host.at(self.wss2_ui_port)
    }

    /// Its listeners, each with the setting of its port, and whether it is under TLS.
    pub fn listeners(&self) -> [(&'static str, ListenAddress, bool); 4] {
        [
            ("WSS1_PORT", self.wss1(), self.tls),
            ("WSS2_PORT", self.wss2(), self.tls),
            ("WSS1_UI_PORT", self.wss1_ui(), false),
            ("WSS2_UI_PORT", self.wss2_ui(), false),
        ]
    }

    /// How the URLs of producers and consumers begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "wss" } else { "ws" }
    }
}
