//! A writer that dies at a put.

use super::store::{Harm, Put};
use object_store::Result;

/// Dies before a put, or after it, as the environment says.
#[derive(Debug)]
pub(super) struct Dying;

#[async_trait::async_trait]
impl Harm for Dying {
    async fn put<T: Send>(&self, number: u64, put: Put<'_, T>) -> Result<T> {
        super::put("put-before", number);
        let result = put.await;
        super::put("put-after", number);
        result
    }
}
