//! stub
use ptv2_common::{error::Explained, job::JobRecord, storage::Store};
/// stub
pub struct Staged {
    /// a
    pub features: String,
    /// b
    pub majority_class: f64,
}
/// stub
pub async fn stage(_store: &Store, _record: &JobRecord) -> Result<Staged, Explained> {
    Err(Explained::new("stub"))
}
