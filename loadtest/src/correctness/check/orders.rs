//! Orders to a child process on its standard input; the end of the input means the end of the process, so that no child
//! outlives the harness.

use std::io::BufRead as _;

use tokio::sync::mpsc;

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Settle what there is, begin nothing, and end.
    Finish,
}

/// The word for it.
pub(crate) const FINISH: &[u8] = b"finish\n";

/// Orders as they come.
pub(crate) struct Orders(mpsc::Receiver<Order>);

impl Orders {
    /// Listens from now on, in a thread of its own: one of the runtime would keep the process from ending.
    pub(crate) fn listen() -> Self {
        let (send, orders) = mpsc::channel(4);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line.trim() == "finish" && send.blocking_send(Order::Finish).is_err() {
                    return;
                }
            }
        });
        Self(orders)
    }

    /// The next one; `None`: the harness is gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Order> {
        self.0.recv().await
    }
}
