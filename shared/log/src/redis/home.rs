//! Keys that belong to one server and to no producer.

use std::sync::Arc;

use parking_lot::RwLock;

use super::names::Names;

/// Names of the keys that belong to a shard and to no producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Home(Arc<RwLock<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    /// In a cluster: a hash tag of the shard's own, if it has any slot.
    tag: Option<String>,
    /// Whether it holds the key `layout` of the installation.
    layout: bool,
}

impl Home {
    /// The key called `part` of this shard; `None` where the shard holds no keys.
    pub(super) fn key(&self, names: &Names, part: &str) -> Option<String> {
        let inside = self.0.read();
        match &inside.tag {
            Some(tag) => Some(names.shared(&format!("{{{tag}}}:{part}"))),
            None => inside.layout.then(|| names.shared(part)),
        }
    }

    /// Whether the shard holds the key `layout` of the installation.
    pub(super) fn has_layout(&self) -> bool {
        self.0.read().layout
    }

    /// Says whether the shard holds that key. In a cluster, `choose` makes the hash tag from the present one.
    pub(super) fn set(&self, layout: bool, choose: impl FnOnce(Option<String>) -> Option<String>) {
        let mut inside = self.0.write();
        inside.layout = layout;
        inside.tag = choose(inside.tag.take());
    }
}
