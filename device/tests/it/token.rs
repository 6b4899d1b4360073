//! The token of a connection: renewed in band, replaced once when it is refused.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use motience_device::{
    Producer,
    client::Error as ClientError,
    login::Error as LoginError,
    policy::Failure,
    producer::{Config, LinkState},
};
use motience_proto::wire::{CloseCode, Frame, TokenAccepted, Welcome};

use crate::support::{
    eventually,
    peer::{Peer, welcome},
    service::Service,
    soon,
};

fn start(peer: &Peer, service: &Service) -> Producer {
    let mut config = Config::new(peer.config());
    config.policy.backoff.max = Duration::from_millis(50);
    Producer::start(config, service.credentials()).unwrap()
}

#[tokio::test]
async fn it_is_renewed_before_it_expires_without_a_reconnect() {
    let (peer, service) = (Peer::start(), Service::start().await);
    let producer = start(&peer, &service);
    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.token, "login-1");
    guest.welcome_with(Welcome { token_expires_in: 1, ..welcome() }).await;
    let Some(Frame::TokenRefresh(refresh)) = guest.control().await else { panic!("no TokenRefresh") };
    assert_eq!(refresh.token, "refresh-1");
    guest.put(Frame::TokenAccepted(TokenAccepted { expires_in: 1 })).await;
    let Some(Frame::TokenRefresh(refresh)) = guest.control().await else { panic!("no second TokenRefresh") };
    assert_eq!(refresh.token, "refresh-2");
    assert_eq!((service.logins.load(SeqCst), producer.stats().transport.reconnects), (1, 0));
    assert_eq!(producer.stats().state, LinkState::Connected);
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_a_refresh_and_one_login_and_no_more() {
    let (peer, service) = (Peer::start(), Service::start().await);
    let producer = start(&peer, &service);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    soon("the connection", producer.connected()).await.unwrap();
    guest.close(CloseCode::Unauthenticated);

    let guest = peer.guest().await;
    assert_eq!(guest.hello.token, "refresh-1");
    guest.close(CloseCode::Unauthenticated);
    let guest = peer.guest().await;
    assert_eq!(guest.hello.token, "login-2");
    guest.close(CloseCode::Unauthenticated);
    let failure = soon("the stop", producer.stopped()).await;
    assert!(matches!(failure, Failure::Connection(ClientError::Closed { code: CloseCode::Unauthenticated, .. })), "{failure:?}");
    assert_eq!(service.logins.load(SeqCst), 2);
    eventually("no connection is left", || peer.connections() == 0).await;
}

#[tokio::test]
async fn what_is_no_word_of_the_service_ends_nothing() {
    let (peer, service) = (Peer::start(), Service::start().await);
    service.blocked.store(true, SeqCst);
    let producer = start(&peer, &service);
    eventually("it asks again", || service.asked.load(SeqCst) > 3).await;
    service.blocked.store(false, SeqCst);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    soon("the connection", producer.connected()).await.unwrap();
}

#[tokio::test]
async fn a_refused_login_ends_it() {
    let (peer, service) = (Peer::start(), Service::start().await);
    service.refuses.store(true, SeqCst);
    let producer = start(&peer, &service);
    let failure = soon("the stop", producer.stopped()).await;
    assert!(matches!(failure, Failure::Login(LoginError::Refused { status: 401, .. })), "{failure:?}");
}
