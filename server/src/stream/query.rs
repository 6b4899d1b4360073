//! What a stream's query asks for.

use std::collections::HashSet;

use motience_shared::{
    http::ApiError,
    model::{ProducerId, Selection},
    relay::view::View,
};

/// The query, read.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) token: Option<String>,
    producers: Option<String>,
    pub(super) from: Option<String>,
    pub(super) selection: Selection,
}

impl Wanted {
    /// Sorts the members of a query; those it does not know mean nothing here. Of one that is there twice the last counts, but for
    /// `where`, of which all do.
    pub(super) fn read(members: Vec<(String, String)>) -> Self {
        let mut wanted = Self::default();
        for (name, value) in members {
            let Some(value) = wanted.selection.take(&name, value) else { continue };
            match name.as_str() {
                "token" => wanted.token = Some(value),
                "from" => wanted.from = Some(value),
                "producers" => wanted.producers = Some(value),
                _ => {}
            }
        }
        wanted
    }

    /// Named producers; `None`: whatever the caller may read.
    pub(super) fn producers(&self) -> Result<Option<HashSet<ProducerId>>, ApiError> {
        self.producers.as_deref().map(ids).transpose()
    }

    pub(super) fn view(&self) -> Result<View, ApiError> {
        Ok(View::of(&self.selection)?)
    }
}

fn ids(list: &str) -> Result<HashSet<ProducerId>, ApiError> {
    let id = |text: &str| text.trim().parse().ok().filter(|id: &ProducerId| id.0 > 0);
    let ids: Option<HashSet<_>> = list.split(',').map(id).collect();
    ids.ok_or_else(|| ApiError::invalid("producers", "producers is a list of ids with commas, such as 1,2."))
}
