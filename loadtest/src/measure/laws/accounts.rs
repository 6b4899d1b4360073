//! `loadtest laws --accounts`: what calls take beside the number of accounts that there are, each with a refresh token, and each consumer with subscriptions.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use motience_proto::model::Role;
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::time::sleep;

use super::{Options, caller::Caller, node::Node, people, samples::Samples};
use crate::common::accounts::Account;

/// One account in so many is a producer.
const PRODUCER_EVERY: usize = 10;
/// Subscriptions of a consumer.
const SUBSCRIPTIONS: i64 = 3;
/// Calls of each kind, and those of them that do not count.
const COUNT: usize = 60;
const WARM: usize = 10;
/// Entries of a page.
const PAGE: usize = 200;
/// How long a node that has just started has things to do.
const SETTLE: Duration = Duration::from_secs(5);

/// Names and outcomes of what was measured at one number of accounts.
type Column = Vec<(&'static str, String)>;

/// Measures each number of accounts, and prints a table.
pub(super) async fn run(options: &Options) -> Result<()> {
    let mut columns = Vec::new();
    for &accounts in &options.accounts {
        eprintln!("{accounts} accounts");
        columns.push(measure(options, accounts).await?);
    }
    say!("median / 99 % in ms of {} calls one after the other; pages of {PAGE}", COUNT - WARM);
    say!("{:<38}{}", "accounts", options.accounts.iter().map(|accounts| format!(" | {accounts:>15}")).collect::<String>());
    for (n, (name, _)) in columns.first().into_iter().flatten().enumerate() {
        say!("{name:<38}{}", columns.iter().map(|column| format!(" | {:>15}", column[n].1)).collect::<String>());
    }
    Ok(())
}

async fn measure(options: &Options, accounts: usize) -> Result<Column> {
    let node = Node::start(options, &[]).await?;
    let (operator, own) = (node.operator().await?, node.accounts()?.make("consumer", 1).await?.remove(0));
    let mut database = node.database().await?;
    fill(&mut database, accounts, &own).await?;

    let mut column = Column::new();
    let (node, started) = node.start_another(options, &[]).await?;
    column.push(("start of a node", format!("{:.0}", started.as_secs_f64() * 1e3)));
    column.extend(logins(&node, accounts, &own.password).await?);
    column.extend(lists(&node, &mut database, accounts, &operator, &own).await?);
    sleep(SETTLE).await;
    let (before, began) = (blocks(&mut database).await?, Instant::now());
    sleep(Duration::from_secs(options.seconds)).await;
    let read = (blocks(&mut database).await? - before) as f64 / began.elapsed().as_secs_f64();
    column.push(("blocks that an idle node reads, /s", format!("{read:.0}")));

    let (node, _) = node.start_another(options, &[("PRODUCER_VISIBILITY", "private")]).await?;
    let (ap, consumer) = (&node.own.addresses.ap, Caller::of(&own)?);
    let producers = format!("{ap}/producers?limit={PAGE}");
    column.push(("where all are private: producers", pages(&consumer, &producers).await?));
    let producer = person(&node, &mut database, Role::Producer, 0).await?;
    let consumers = format!("{ap}/consumers?limit={PAGE}");
    column.push(("where all are private: consumers", pages(&Caller::of(&producer)?, &consumers).await?));
    node.own.stop().await?;
    Ok(column)
}

/// Calls of a person who comes, and of the program that works for it.
async fn logins(node: &Node, accounts: usize, password: &str) -> Result<Column> {
    let (api, ap, sm) = (node.accounts()?, &node.own.addresses.ap, &node.own.addresses.sm);
    let consumers = accounts - accounts / PRODUCER_EVERY;
    let mut people = Vec::with_capacity(COUNT);
    let login = Samples::of(WARM, COUNT, async |n| {
        let name = format!("{}{}", people::prefix(Role::Consumer), n * consumers / COUNT);
        people.push(api.login(&name, password).await?);
        Ok(())
    })
    .await?;
    let callers = people.iter().map(Caller::of).collect::<Result<Vec<_>>>()?;
    let verify = Samples::of(WARM, COUNT, async |n| callers[n].get(&format!("{ap}/verify")).await.map(drop)).await?;
    let refresh = Samples::of(WARM, COUNT, async |n| {
        callers[n].post(&format!("{ap}/refresh"), &json!({"refresh_token": people[n].refresh_token})).await.map(drop)
    })
    .await?;
    let sessions = Samples::of(WARM, COUNT, async |n| callers[n].page(&format!("{ap}/account/sessions")).await.map(drop)).await?;
    let register = Samples::of(WARM, COUNT, async |n| {
        let new = json!({"username": format!("new-{n}"), "password": password, "role": "consumer"});
        callers[n].post(&format!("{ap}/register"), &new).await.map(drop)
    })
    .await?;
    let known: Vec<Value> = callers[0].page(&format!("{ap}/producers?limit={COUNT}")).await?;
    let subscribe = Samples::of(WARM, COUNT, async |n| {
        callers[n].post(&format!("{sm}/subscribe"), &json!({"producer_id": known[n]["id"]})).await.map(drop)
    })
    .await?;
    let unsubscribe =
        Samples::of(WARM, COUNT, async |n| callers[n].delete(&format!("{sm}/unsubscribe?producer_id={}", known[n]["id"])).await.map(drop))
            .await?;
    let own = Samples::of(WARM, COUNT, async |n| callers[n].page(&format!("{sm}/subscriptions/{}", people[n].id)).await.map(drop)).await?;
    let named = [
        ("login", login),
        ("refresh", refresh),
        ("verify a token", verify),
        ("register", register),
        ("sessions of an account", sessions),
        ("subscribe", subscribe),
        ("unsubscribe", unsubscribe),
        ("subscriptions of a consumer", own),
    ];
    Ok(named.map(|(name, samples)| (name, samples.to_string())).into())
}

/// Lists of operators, and those that everybody has.
async fn lists(node: &Node, database: &mut PgConnection, accounts: usize, operator: &Account, own: &Account) -> Result<Column> {
    let (ap, sm) = (&node.own.addresses.ap, &node.own.addresses.sm);
    let (operator, anybody) = (Caller::of(operator)?, Caller::of(own)?);
    let deep = person(node, database, Role::Consumer, accounts / 2).await?.id;
    let producer = person(node, database, Role::Producer, accounts / PRODUCER_EVERY * 9 / 10).await?;
    let (list, last) = (format!("{ap}/accounts?limit={PAGE}"), accounts - accounts / PRODUCER_EVERY - 1);
    let subscribers = format!("{sm}/subscribers/{}?limit={PAGE}", producer.id);
    Ok(vec![
        ("operators: accounts, first page", pages(&operator, &list).await?),
        ("operators: accounts, deep page", pages(&operator, &format!("{list}&after={deep}")).await?),
        ("operators: a role that few have", pages(&operator, &format!("{list}&role=admin")).await?),
        ("operators: a whole name", pages(&operator, &format!("{list}&query=law-consumer-{last}")).await?),
        ("operators: a part that few have", pages(&operator, &format!("{list}&query=umer-{last}")).await?),
        ("operators: a part that many have", pages(&operator, &format!("{list}&query=consumer-")).await?),
        ("producers, first page", pages(&anybody, &format!("{ap}/producers?limit={PAGE}")).await?),
        ("producers, deep page", pages(&anybody, &format!("{ap}/producers?limit={PAGE}&after={}", producer.id)).await?),
        ("consumers, first page", pages(&anybody, &format!("{ap}/consumers?limit={PAGE}")).await?),
        ("consumers, deep page", pages(&anybody, &format!("{ap}/consumers?limit={PAGE}&after={deep}")).await?),
        ("subscribers of a producer", pages(&Caller::of(&producer)?, &subscribers).await?),
    ])
}

async fn pages(caller: &Caller, url: &str) -> Result<String> {
    Ok(Samples::of(WARM, COUNT, async |_| caller.page(url).await.map(drop)).await?.to_string())
}

/// One of the accounts, logged in as far as an access token goes.
async fn person(node: &Node, database: &mut PgConnection, role: Role, n: usize) -> Result<Account> {
    let name = format!("{}{n}", people::prefix(role));
    people::logged_in(node, database, &name).await?.pop().with_context(|| format!("there is no {name}"))
}

/// Makes the accounts with the password of `own`, and what they have.
async fn fill(database: &mut PgConnection, accounts: usize, own: &Account) -> Result<()> {
    let hash: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1").bind(own.id).fetch_one(&mut *database).await?;
    let producers = accounts / PRODUCER_EVERY;
    people::make(database, Role::Producer, producers, &hash).await?;
    people::make(database, Role::Consumer, accounts - producers, &hash).await?;
    // Every consumer, the caller of some lists too.
    sqlx::query(SUBSCRIBE).bind(i64::try_from(producers)?).bind(SUBSCRIPTIONS).execute(&mut *database).await?;
    sqlx::query(REFRESH).execute(&mut *database).await?;
    sqlx::query("VACUUM ANALYZE").execute(&mut *database).await?;
    Ok(())
}

/// Blocks of tables and indexes that were looked at so far.
async fn blocks(database: &mut PgConnection) -> Result<i64> {
    let read = "SELECT CAST(blks_hit + blks_read AS BIGINT) FROM pg_stat_database WHERE datname = current_database()";
    Ok(sqlx::query_scalar(read).fetch_one(database).await?)
}

const SUBSCRIBE: &str = "WITH first AS (SELECT MIN(id) AS id FROM users WHERE role = 'producer') \
    INSERT INTO subscriptions (consumer_id, producer_id) \
    SELECT users.id, first.id + (CAST(users.id AS BIGINT) * 7919 + n * 104729) % $1 FROM users, first, generate_series(1, $2) AS n \
    WHERE role = 'consumer' ON CONFLICT DO NOTHING";
const REFRESH: &str = "INSERT INTO refresh_tokens (id, family, user_id, expires_at, started_at, issued_at, address, user_agent) \
    SELECT md5('token' || id), md5('family' || id), id, now + 604800000 - id % 600000, now, now, '192.0.2.1', 'loadtest' \
    FROM users, (SELECT CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) AS now) AS clock";
