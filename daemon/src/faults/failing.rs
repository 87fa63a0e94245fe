//! A store whose first writes come to harm, in every way that a real store has.

use super::store::{Harm, Put};
use object_store::Result;
use std::time::Duration;

/// How long a slow put takes.
const SLOW: Duration = Duration::from_millis(700);

/// Of the first puts one fails, two are done and answered with an error, one is slow.
#[derive(Debug)]
pub(super) struct Failing;

#[async_trait::async_trait]
impl Harm for Failing {
    async fn put<T: Send>(&self, number: u64, put: Put<'_, T>) -> Result<T> {
        match number {
            2 => Err(broken("503: slow down")),
            4 | 6 => {
                put.await?;
                Err(broken("the connection was reset before the answer"))
            }
            7 => {
                tokio::time::sleep(SLOW).await;
                put.await
            }
            _ => put.await,
        }
    }
}

fn broken(what: &str) -> object_store::Error {
    object_store::Error::Generic { store: "failing", source: what.into() }
}
