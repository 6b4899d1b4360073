//! Precedence of the settings, and reports of mistakes.

use std::fs;

use motience_device::{
    link::{Controller, Redundancy},
    outbox::{Order, Policy, Storage},
};
use secrecy::ExposeSecret as _;

use super::*;

impl Variables {
    /// These and no others.
    fn from_pairs<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(Env::from_pairs(pairs))
    }

    /// These, and these in `.env`.
    fn with_file<const N: usize>(self, pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().fold(self.0, |env, (name, value)| env.with_in_file(name, value)))
    }
}

fn variables() -> Variables {
    Variables::from_pairs([
        ("DEVICE_ID", "rpi_001"),
        ("USERNAME", "desktop"),
        ("PASSWORD", "secret"),
        ("SEND_INTERVAL_SECS", "2"),
        ("CA", "/ca.pem"),
    ])
}

fn assemble(text: &str, variables: &Variables) -> Result<Config, Error> {
    assemble::assemble(File::parse(text).unwrap(), &Overrides::default(), variables)
}

#[test]
fn the_fields_variables_are_enough() {
    let config = assemble("", &variables()).unwrap();
    assert_eq!((config.device_id.as_str(), config.username.as_str(), config.password.expose_secret()), ("rpi_001", "desktop", "secret"));
    assert_eq!(config.auth_url, "http://localhost:3001");
    assert_eq!(config.server, Server { host: "localhost".into(), port: 4433 });
    assert_eq!(config.trust, Trust::Ca("/ca.pem".into()));
    assert_eq!(config.sensors, [Sensor::system(Duration::from_secs(2))]);
    assert!(!format!("{config:?} {:?}", variables()).contains("secret"));
}

#[test]
fn the_file_wins_over_the_environment_and_the_command_line_over_both() {
    let file = "username = \"device\"\nserver_url = \"quic://a:1\"\nsend_interval_secs = 0.5";
    let config = assemble(file, &variables()).unwrap();
    assert_eq!((config.username.as_str(), config.server.host.as_str()), ("device", "a"));
    assert_eq!(config.sensors[0].interval, Duration::from_millis(500));
    let overrides = Overrides { server: Some("quic://b".into()), ca: Some("/b.pem".into()), ..Overrides::default() };
    let config = assemble::assemble(File::parse(file).unwrap(), &overrides, &variables()).unwrap();
    assert_eq!((config.server.host.as_str(), config.trust), ("b", Trust::Ca("/b.pem".into())));
}

#[test]
fn the_person_at_the_keyboard_is_not_the_device() {
    let username = |variables: &Variables| assemble("", variables).unwrap().username;
    let own = variables();
    assert_eq!(username(&own), "desktop", "where nothing else is said");
    let file = variables().with_file([("USERNAME", "device")]);
    assert_eq!(username(&file), "device");
    let both = Variables::from_pairs([("DEVICE_ID", "d"), ("PASSWORD", "p"), ("USERNAME", "desktop"), ("MOTIENCE_USERNAME", "own")]);
    assert_eq!(username(&both.with_file([("USERNAME", "device"), ("MOTIENCE_USERNAME", "file")])), "own");
    let in_file = variables().with_file([("USERNAME", "device"), ("MOTIENCE_USERNAME", "file"), ("PASSWORD", "other")]);
    let config = assemble("", &in_file).unwrap();
    assert_eq!((config.username.as_str(), config.password.expose_secret()), ("file", "secret"), "all else is the environment's first");
}

#[test]
fn nothing_secret_travels_in_the_clear_unless_told() {
    let refused = |text: &str| assemble(text, &variables()).err().map(|e| e.to_string());
    for host in ["localhost", "LOCALHOST:3001", "127.0.0.1", "127.9.9.9:1", "[::1]:3001", "[::ffff:127.0.0.1]", "a.localhost"] {
        assert_eq!(refused(&format!("auth_url = \"http://{host}\"")), None);
        assert_eq!(refused(&format!("fallback_url = \"ws://{host}\"")), None);
    }
    for host in ["ap:3001", "10.0.0.1", "[2001:db8::1]:3001", "localhost.example.com", "127.0.0.1.example.com", "0.0.0.0"] {
        let error = refused(&format!("auth_url = \"http://{host}\"")).unwrap();
        assert!(error.contains("AUTH_URL (auth_url)") && error.contains("--insecure-plaintext"), "{error}");
        let error = refused(&format!("fallback_url = \"ws://{host}\"")).unwrap();
        assert!(error.contains("FALLBACK_URL (fallback_url)"), "{error}");
        assert_eq!(refused(&format!("auth_url = \"https://{host}\"\nfallback_url = \"wss://{host}\"")), None);
        assert_eq!(refused(&format!("auth_url = \"http://{host}\"\ninsecure_plaintext = true")), None);
    }
    let file = || File::parse("auth_url = \"http://ap:3001\"").unwrap();
    let overrides = Overrides { insecure_plaintext: true, ..Overrides::default() };
    assert!(assemble::assemble(file(), &overrides, &variables()).is_ok());
    let told = variables().with_file([("INSECURE_PLAINTEXT", "true")]);
    assert!(assemble::assemble(file(), &Overrides::default(), &told).is_ok());
    let unclear = variables().with_file([("INSECURE_PLAINTEXT", "perhaps")]);
    assert!(
        assemble::assemble(file(), &Overrides::default(), &unclear)
            .unwrap_err()
            .to_string()
            .starts_with("INSECURE_PLAINTEXT: 'perhaps' must be")
    );
}

#[test]
fn mistakes_are_named() {
    let wrong = |text: &str| assemble(text, &variables()).unwrap_err().to_string();
    let told = |pairs: Variables| assemble("", &pairs).unwrap_err().to_string();
    let all = told(Variables::from_pairs([]));
    for setting in ["DEVICE_ID (in the configuration file: device_id)", "MOTIENCE_USERNAME", "PASSWORD (", "are missing", "--config"] {
        assert!(all.contains(setting), "{setting}: {all}");
    }
    let one = told(Variables::from_pairs([("MOTIENCE_USERNAME", "me"), ("PASSWORD", "pass123")]));
    assert!(one.starts_with("DEVICE_ID (in the configuration file: device_id) is missing"), "{one}");
    assert!(wrong("server_url = \"http://x\"").contains("SERVER_URL (server_url)"));
    assert!(wrong("send_interval_secs = 0").contains("SEND_INTERVAL_SECS"));
    assert!(wrong("sensors = []").contains("nothing to send"));
    assert!(wrong("[[sensors]]\nkind = \"system\"\npath = \"/x\"").contains("path of sensor 1 does not belong"));
    assert!(wrong("[[sensors]]\nkind = \"command\"").contains("command of sensor 1 is missing"));
    assert!(wrong("[outbox]\nrecords = 0").contains("outbox"));
    assert!(wrong("[outbox]\nstorage = \"memory\"\npath = \"/x\"").contains("outbox.path does not go with"));
    assert!(wrong("[outbox]\ncommit_interval_ms = 100000").contains("outbox.commit_interval_ms must be at most 60000"));
    let bad = Variables::from_pairs([("DEVICE_ID", "d"), ("USERNAME", "u"), ("PASSWORD", "p"), ("SEND_INTERVAL_SECS", "often")]);
    assert_eq!(assemble("", &bad).unwrap_err().to_string(), "SEND_INTERVAL_SECS: 'often' must be a number");
    let several = variables().with_file([("PASSWORD_FILE", "/nowhere"), ("INSECURE_PLAINTEXT", "perhaps")]);
    let several = Variables(several.0.with("SEND_INTERVAL_SECS", "0"));
    let told = assemble("", &several).unwrap_err().to_string();
    assert_eq!(told.lines().count(), 2, "the process's own password hides that of the file: {told}");
    let unknown = File::parse("pasword = \"hidden\"").err().unwrap().join("\n");
    assert!(unknown.starts_with("pasword: ") && !unknown.contains("hidden"), "{unknown}");
    let missing = File::read(Path::new("/does/not/exist.toml")).err().unwrap().to_string();
    assert!(missing.contains("/does/not/exist.toml"));
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    let parsed = |text: &str| File::parse(text).err().unwrap_or_default();
    let keys = |text: &str| parsed(text).iter().map(|told| told.split(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    let text = "usrname = \"x\"\ngso = [\n1,\n]\n[outbox]\nstorage = \"paper\"\nrecords = -1\n[[sensors]]\nkind = \"sytem\"\nlain = 1\n[[sensors]]\n";
    let expected = ["gso", "outbox.records", "outbox.storage", "kind of sensor 1", "lain of sensor 1", "sensor 2", "usrname"];
    assert_eq!(keys(text), expected, "{:?}", parsed(text));
    assert_eq!(keys("log = \"info\"\ngso = \n"), ["line 2"], "a text that is no TOML is told as such");
    assert_eq!(parsed("password = 12345"), ["password: must be a text in quotes"]);

    let text = "device_id = \"\"\nserver_url = \"http://x\"\n[outbox]\nrecords = 0\n[link]\nbudget = 9\nkeep_alive_secs = 90\n\
                [[sensors]]\nkind = \"command\"\ninterval_secs = 0\n[[sensors]]\nkind = \"file\"\n";
    let overrides = Overrides { config: Some("/etc/device.toml".into()), ..Overrides::default() };
    let told = assemble::assemble(File::parse(text).unwrap(), &overrides, &variables()).unwrap_err().to_string();
    for sentence in [
        "DEVICE_ID (device_id) cannot be used",
        "SERVER_URL (server_url) cannot be used",
        "/etc/device.toml: outbox must have room",
        "/etc/device.toml: link.budget must lie",
        "/etc/device.toml: link.keep_alive_secs must be at most 50",
        "/etc/device.toml: interval_secs of sensor 1 must be above 0",
        "/etc/device.toml: command of sensor 1 is missing",
        "/etc/device.toml: path of sensor 2 is missing",
    ] {
        assert_eq!(told.lines().filter(|line| line.starts_with(sentence)).count(), 1, "{sentence}: {told}");
    }
    assert_eq!(told.lines().count(), 8, "{told}");
}

#[test]
fn the_outbox_is_in_the_state_folder_unless_told_otherwise() {
    let outbox = |text: &str| assemble(&format!("state_dir = \"/state\"\n[outbox]\n{text}"), &variables()).unwrap().outbox;
    let Storage::Disk(path) = outbox("").storage else { panic!("in memory") };
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(path.starts_with("/state") && name.starts_with("outbox-") && name.ends_with(".redb"), "{name}");
    let other = assemble("state_dir = \"/state\"\nusername = \"other\"", &variables()).unwrap().outbox;
    assert_ne!(other.storage, Storage::Disk(path), "what one account has taken is never sent as another's");
    let config = |username: &str| assemble(&format!("state_dir = \"/state\"\nusername = \"{username}\""), &variables()).unwrap();
    assert!(config("a").token_file.unwrap().starts_with("/state"));
    assert_ne!(config("a").token_file, config("b").token_file);
    assert_ne!(config("a").status_file, config("b").status_file, "each device has a status of its own");
    assert_eq!(outbox("path = \"/elsewhere/o.redb\"").storage, Storage::Disk("/elsewhere/o.redb".into()));
    assert_eq!(outbox("storage = \"memory\"").storage, Storage::Memory);
    let outbox = outbox("policy = \"block\"\norder = \"live-first\"\ncommit_interval_ms = 20\nrecords = 5\nbytes = 6");
    assert_eq!((outbox.policy, outbox.order, outbox.records, outbox.bytes), (Policy::Block, Order::LiveFirst, 5, 6));
    assert_eq!(outbox.commit_interval, Duration::from_millis(20));
}

#[test]
fn the_link_is_as_the_file_says() {
    let config = |text: &str| assemble(text, &variables());
    assert_eq!(config("").unwrap().link, link::Settings::default());
    let link = config("[link]\nredundancy = 2\nbudget = 1.5\ncompact = false\ncongestion = \"bbr\"\nkeep_alive_secs = 20").unwrap();
    assert_eq!((link.link.redundancy, link.link.controller, link.link.compact), (Redundancy::Always(2), Controller::Bbr, false));
    for name in ["delay-gated", "thin"] {
        assert_eq!(config(&format!("[link]\ncongestion = \"{name}\"")).unwrap().link.controller, Controller::DelayGated);
    }
    assert_eq!(link.keep_alive, Duration::from_secs(20));
    assert_eq!(config("[link]\nmetered = true").unwrap().link.redundancy, Redundancy::Off);
    let fallback = config("fallback_url = \"wss://gate:8001\"").unwrap().fallback;
    assert_eq!(fallback, Some("wss://gate:8001".parse().unwrap()));

    let wrong = |text: &str| config(text).unwrap_err().to_string();
    assert!(wrong("[link]\nredundancy = 9").contains("link.redundancy is at most 4 redundant transmissions"));
    assert!(wrong("[link]\nredundancy = \"some\"").contains("link.redundancy cannot be used"));
    assert!(wrong("[link]\nmetered = true\nredundancy = 1").contains("does not go with metered"));
    assert!(wrong("[link]\nbudget = 0.5").contains("link.budget must lie between"));
    assert!(wrong("[link]\nkeep_alive_secs = 90").contains("link.keep_alive_secs must be at most 50"));
    assert!(wrong("fallback_url = \"http://x\"").contains("FALLBACK_URL (fallback_url) cannot be used"));
    assert!(wrong("[[sensors]]\nkind = \"file\"\npath = \"/x\"\nlane = \"latest\"").contains("lane of sensor 1 cannot be"));
}

#[test]
fn the_example_file_holds() {
    let example = include_str!("../../motience-device.example.toml");
    let config = assemble(example, &Variables::from_pairs([])).unwrap();
    assert_eq!(config.username, "rpi_001");
    // Every line that is commented out is a setting that works.
    let all: String = example.lines().map(|line| format!("{}\n", line.strip_prefix("#:").unwrap_or(line))).collect();
    let config = assemble(&all, &Variables::from_pairs([])).unwrap();
    assert_eq!(config.sensors.len(), 4);
    assert!(config.sensors.iter().any(|sensor| sensor.lane == Lane::Ordered));
}

#[test]
fn the_example_ends_with_the_declarations() {
    let text = example();
    let file = include_str!("../../../../.env.example");
    assert!(file.ends_with(&text), "write .env.example anew (CONTRIBUTING.md, How to add): it should end\n{text}");
}

#[test]
fn the_password_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    fs::write(&path, "from a file\n").unwrap();
    let variables = Variables::from_pairs([("DEVICE_ID", "d"), ("USERNAME", "u"), ("PASSWORD_FILE", path.to_str().unwrap())]);
    assert_eq!(assemble("", &variables).unwrap().password.expose_secret(), "from a file");
}
