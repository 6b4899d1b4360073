//! Tests whose outcome is yes or no: nothing is lost, doubled or leaked, whatever happens.

pub(crate) mod check;
pub(crate) mod hostile;
pub(crate) mod resume;
