//! The history out of a real replica of PostgreSQL: behind, away, back again, and of another database.

use std::time::{Duration, Instant};

use motience_runtime::telemetry;
use motience_store::{Erased, HistoryQuery, Store};
use motience_testing::Postgres;
use tokio::time::sleep;

use super::{
    history::{log, part, whole, write},
    *,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so().await {
        assert!(Instant::now() < deadline, "it takes too long until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn platform_with(primary: &Postgres, replica: &Postgres, settings: &[(&str, &str)]) -> Platform {
    let (url, replica) = (primary.url(), replica.url());
    let settings = [&[("DATABASE_URL", url.as_str()), ("DATABASE_READ_URL", replica.as_str())][..], settings].concat();
    let platform = platform_on(&settings, store::Config::Postgres { url: url.as_str().into(), max_connections: 4 }).await;
    until("the replica is read", async || platform.services.backend.store.replica().is_some()).await;
    platform
}

/// A producer of whom the replica shows ten records, with its token and the path of its history.
async fn with_ten_records(platform: &Platform) -> (User, String, String) {
    let (producer, token) = platform.account(Role::Producer, "p").await;
    log(platform, &producer, 0..10).await;
    write(platform, &producer, 10).await;
    shown(&platform.services.backend.store, &producer, 10).await;
    let path = format!("/history/{}", producer.id);
    (producer, token, path)
}

/// Parts of the history that were read from this server.
fn reads(server: &str) -> u64 {
    let metrics = telemetry::render();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("motience_history_reads_total{{server=\"{server}\"}} ")));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Returns once the replica shows so many rows.
async fn shown(store: &Store, producer: &User, rows: usize) {
    let found = async || match store.replica() {
        Some(replica) => replica.history(producer.id.producer(), &HistoryQuery::default()).await.map_or(0, |rows| rows.len()),
        None => 0,
    };
    until("the replica shows what was kept", async || found().await >= rows).await;
}

/// The state of the replica as `/ready` tells it, and whether the node is ready.
async fn state(platform: &Platform) -> (Option<&'static str>, bool) {
    let parts = platform.services.backend.parts().await;
    let fault = parts.iter().find(|part| part.name == "replica").expect("it is told of").fault;
    (fault, platform.services.backend.ready().await.is_ok())
}

#[tokio::test]
async fn pages_from_a_replica_that_is_behind_lack_nothing_and_repeat_nothing() {
    telemetry::start_metrics();
    let primary = Postgres::start().await;
    let replica = primary.replica().await;
    let platform = platform_with(&primary, &replica, &[("DATABASE_READ_LAG", "1h"), ("LOG_RETENTION_BYTES", "4KiB")]).await;
    let store = &platform.services.backend.store;
    let (producer, token, path) = with_ten_records(&platform).await;
    for limit in [1, 3, 10, 1000] {
        assert_eq!(whole(&platform, &path, &token, &format!("?limit={limit}")).await, (0..10).collect::<Vec<_>>());
    }
    assert!(reads("replica") >= 15 && reads("primary") == 0, "{} {}", reads("replica"), reads("primary"));

    // From here on the replica shows ten rows, and the log has the rest.
    replica.execute("SELECT pg_wal_replay_pause()").await;
    log(&platform, &producer, 10..20).await;
    write(&platform, &producer, 10).await;
    log(&platform, &producer, 20..22).await;
    for limit in [1, 3, 10, 1000] {
        assert_eq!(whole(&platform, &path, &token, &format!("?limit={limit}")).await, (0..22).collect::<Vec<_>>());
    }
    assert_eq!(reads("primary"), 0, "the log tells what the replica lacks");
    let buckets = platform.dsm(Method::GET, &format!("{path}?bucket=1h"), Some(&token), Sent::Nothing).await.json(200);
    let records: u64 = buckets.as_array().unwrap().iter().map(|bucket| bucket["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 22);

    // A part out of the database itself goes on where the replica has nothing yet.
    store.replica_failed(&"the test says so");
    assert_eq!(state(&platform).await, (Some("read replica"), true));
    let (some, _, next) = part(&platform, &path, &token, "?limit=15").await;
    assert_eq!(some, (0..15).collect::<Vec<_>>());
    until("the replica is looked at again", async || store.replica().is_some()).await;
    let before = reads("primary");
    assert_eq!(whole(&platform, &path, &token, &next.unwrap()).await, (15..22).collect::<Vec<_>>());
    assert!(reads("primary") > before);

    // The log gives up what the replica has not come to.
    log(&platform, &producer, 22..40).await;
    write(&platform, &producer, 100).await;
    log(&platform, &producer, 40..100).await;
    let bounds = platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap();
    assert!(bounds.first.0 > 41, "{bounds:?}");
    let seen = whole(&platform, &path, &token, "?limit=7").await;
    assert_eq!(seen, (0..40).chain(bounds.first.0 - 1..100).collect::<Vec<_>>());

    // An export has every row.
    let rows = async || {
        let answer = platform.ap(Method::GET, "/account/export", Some(&token), Sent::Nothing).await;
        assert_eq!(answer.status, StatusCode::OK);
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(answer.body.to_vec())).unwrap();
        std::io::read_to_string(archive.by_name("data_history.ndjson").unwrap()).unwrap().lines().count()
    };
    assert_eq!(rows().await, 40);
    replica.execute("SELECT pg_wal_replay_resume()").await;
    shown(store, &producer, 40).await;
    assert_eq!(rows().await, 40);
}

#[tokio::test]
async fn records_that_were_erased_do_not_come_back_from_a_replica_that_is_behind() {
    telemetry::start_metrics();
    let primary = Postgres::start().await;
    let replica = primary.replica().await;
    let platform = platform_with(&primary, &replica, &[("DATABASE_READ_LAG", "1h")]).await;
    let (backend, store) = (&platform.services.backend, &platform.services.backend.store);
    let (producer, token, path) = with_ten_records(&platform).await;
    let (other, _) = platform.account(Role::Producer, "another").await;
    replica.execute("SELECT pg_wal_replay_pause()").await;
    let erased = Erased { first: Some(1), last: Some(4), ..Erased::default() };
    backend.erase_records(producer.id.producer(), &erased, producer.id).await.unwrap().unwrap();
    let all = async || whole(&platform, &path, &token, "?limit=3").await;
    until("nobody can read them", async || all().await == (4..10).collect::<Vec<_>>()).await;
    assert!(store.replica_of(producer.id.producer()).is_none() && store.replica_of(other.id.producer()).is_some());
    let shown = store.replica().unwrap().history(producer.id.producer(), &HistoryQuery::default()).await.unwrap();
    assert_eq!(shown.len(), 10, "the replica still has them");
}

#[tokio::test]
async fn a_replica_that_is_away_or_too_far_behind_is_not_read_until_it_is_back() {
    telemetry::start_metrics();
    let primary = Postgres::start().await;
    let mut replica = primary.replica().await;
    let platform = platform_with(&primary, &replica, &[("DATABASE_READ_LAG", "1s")]).await;
    let store = &platform.services.backend.store;
    let (_, token, path) = with_ten_records(&platform).await;
    let all = async || assert_eq!(whole(&platform, &path, &token, "").await, (0..10).collect::<Vec<_>>());
    all().await;
    assert_eq!((reads("primary"), state(&platform).await), (0, (None, true)));

    // Whether it refuses connections or never answers.
    replica.stop().await;
    all().await;
    assert_eq!(state(&platform).await, (Some("read replica"), true));
    all().await;
    replica.start_again().await;
    until("it is back", async || store.replica().is_some()).await;
    replica.pause();
    all().await;
    replica.resume();
    until("it is back", async || store.replica().is_some()).await;
    let before = reads("replica");
    all().await;
    assert!(reads("replica") > before);

    replica.execute("SELECT pg_wal_replay_pause()").await;
    // Something that it would have to replay.
    platform.account(Role::Producer, "other").await;
    until("it is too far behind", async || state(&platform).await == (Some("read replica behind"), true)).await;
    assert!(store.replica().is_none());
    all().await;
    replica.execute("SELECT pg_wal_replay_resume()").await;
    until("it has caught up", async || store.replica().is_some()).await;

    // A replica that was promoted shows a past that never moves on.
    replica.execute("SELECT pg_promote()").await;
    until("it is no replica", async || state(&platform).await == (Some("read replica takes writes"), true)).await;
    all().await;
    let shown = telemetry::render();
    assert!(shown.contains("motience_database_replica_up 0") && shown.contains("motience_database_replica_lag_seconds "), "{shown}");
}

#[tokio::test]
async fn a_check_of_the_settings_tries_the_replica() {
    let primary = Postgres::start().await;
    let (other, own) = (primary.database("other").await, primary.url());
    let config = |url: &str| store::Config::Postgres { url: url.into(), max_connections: 2 };
    for url in [&own, &other] {
        Store::open(&config(url)).await.unwrap().installation().await.unwrap();
    }
    let replica = primary.replica().await;
    let told = async |read: &str| {
        let env = Env::from_pairs([("DATABASE_URL", own.as_str()), ("DATABASE_READ_URL", read)]);
        backend::Config::from_env(&env).unwrap().probe(&[]).await
    };
    until("the replica has both", async || told(&replica.url()).await.is_empty()).await;
    for (read, wrong) in [
        (own.clone(), "it takes writes, so it is no replica"),
        (replica.url_of("other"), "of another database than DATABASE_URL"),
        ("postgres://me:hunter2@127.0.0.1:9/motience".to_owned(), "refused"),
    ] {
        let told = told(&read).await;
        assert!(told.len() == 1 && told[0].contains("(DATABASE_READ_URL)") && told[0].contains(wrong), "{told:?}");
        assert!(!told[0].contains("hunter2"));
    }
    let alone = Env::from_pairs([("DATABASE_READ_URL", own.as_str())]);
    assert!(backend::Config::from_env(&alone).unwrap_err().to_string().starts_with("DATABASE_READ_URL: "));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), replica.url()).unwrap();
    let by_file = [("DATABASE_URL", own.as_str()), ("DATABASE_READ_URL_FILE", file.path().to_str().unwrap())];
    let config = backend::Config::from_env(&Env::from_pairs(by_file)).unwrap();
    assert_eq!(config.replica.map(|replica| replica.to_string()), Some(format!("127.0.0.1:{}/postgres", replica.port())));
}
