//! stub
use ptv2_common::{error::Explained, ids::JobId, job::JobRecord};
use std::path::PathBuf;
/// stub
pub struct Acceptance {}
impl Acceptance {
    /// stub
    pub fn new(_roots: Vec<PathBuf>) -> Result<Self, Explained> {
        Ok(Self {})
    }
    /// stub
    pub fn accept(
        &self,
        _spec: serde_json::Value,
        _id: JobId,
        _now: u64,
    ) -> Result<JobRecord, Explained> {
        Err(Explained::new("stub"))
    }
}
