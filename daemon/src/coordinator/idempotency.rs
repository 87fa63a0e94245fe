//! Idempotency keys: a create-only object ties a key to the first job that was submitted with it, so
//! that a repeated submit finds that job even when the journal is gone.

use crate::checkpoint::read;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{generations_prefix, idempotency_object};
use ptv2_common::storage::{self, Put, Store, put_create, sha256};
use serde::{Deserialize, Serialize};

/// Whose keys those of jobs are that do not say who submitted them: there was one principal before tokens
/// had names, and the coordinator's own token bears its name.
const FIRST: &str = "user";

/// What a key means.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is new and now this job's.
    First,
    /// It is the key of that job, of the same spec.
    Repeated(JobId),
    /// It is the key of another spec.
    Conflict(Explained),
}

#[derive(Serialize, Deserialize)]
struct KeyObject {
    format: u32,
    job: JobId,
    spec_sha256: String,
}

/// Claims a key for a job. Keys of different principals are different keys.
///
/// # Errors
/// Those of the store.
pub async fn claim(store: &Store, key: &str, record: &JobRecord) -> Result<Claim, Explained> {
    let principal = record.submitted_by.as_deref().unwrap_or(FIRST);
    let object = idempotency_object(&sha256(format!("{principal}\0{key}").as_bytes()));
    let at = |error: &dyn std::error::Error| Explained::from_error(error).at(object.clone());
    let (job, spec_sha256) = (record.id.clone(), record.spec_sha256.clone());
    let own = KeyObject { format: 1, job, spec_sha256 };
    let bytes = serde_json::to_vec(&own).map_err(|error| at(&error))?;
    let put = put_create(store, &object, bytes.into()).await.map_err(|error| at(&error))?;
    if put == Put::Created {
        return Ok(Claim::First);
    }
    let bytes = storage::get(store, &object).await.map_err(|error| at(&error))?;
    let first: KeyObject = serde_json::from_slice(&bytes).map_err(|error| at(&error))?;
    if first.job == own.job {
        // The store did what was asked, and its answer was lost: a retry beneath found the key taken.
        return Ok(Claim::First);
    }
    if first.spec_sha256 == own.spec_sha256 {
        return Ok(Claim::Repeated(first.job));
    }
    Ok(Claim::Conflict(
        Explained::new(format!(
            "the idempotency key belongs to job {}, whose spec has SHA-256 {}",
            first.job, first.spec_sha256
        ))
        .at("idempotency_key")
        .expected(format!("the same spec; this one has SHA-256 {}", own.spec_sha256))
        .hint("use another key for another job"),
    ))
}

/// Whether a job has begun a generation. One without a checkpoint is not adopted from the store.
///
/// # Errors
/// Those of the store.
pub async fn has_begun(store: &Store, job: &JobId) -> Result<bool, Explained> {
    Ok(!read::list(store, &generations_prefix(job)).await?.is_empty())
}

/// The key that stands for this one once the job that it found was lost.
pub fn after(key: &str, lost: &JobId) -> String {
    format!("{key}\0after {lost}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::run::tests::record;

    #[tokio::test]
    async fn a_key_belongs_to_the_first_spec() {
        let folder = tempfile::tempdir().unwrap();
        let store = storage::open(folder.path().to_str().unwrap()).unwrap();
        let first = record("j1", "1");
        assert_eq!(claim(&store, "k", &first).await.unwrap(), Claim::First);
        let again = claim(&store, "k", &record("j2", "1")).await.unwrap();
        assert_eq!(again, Claim::Repeated(JobId("j1".into())));
        // As after an answer that was lost.
        assert_eq!(claim(&store, "k", &first).await.unwrap(), Claim::First);
        let other = JobRecord { spec_sha256: "other".into(), ..record("j3", "1") };
        let refused = claim(&store, "k", &other).await.unwrap();
        assert!(matches!(refused, Claim::Conflict(_)), "{refused:?}");
        assert_eq!(claim(&store, "l", &other).await.unwrap(), Claim::First);
    }

    #[tokio::test]
    async fn keys_of_two_people_do_not_meet_and_those_of_before_names_hold() {
        let folder = tempfile::tempdir().unwrap();
        let store = storage::open(folder.path().to_str().unwrap()).unwrap();
        let by = |id, who: Option<&str>| JobRecord {
            submitted_by: who.map(str::to_owned),
            ..record(id, "1")
        };
        let claim = async |record: JobRecord| claim(&store, "k", &record).await.unwrap();
        assert_eq!(claim(by("j1", None)).await, Claim::First);
        assert_eq!(claim(by("j2", Some("anna"))).await, Claim::First);
        assert_eq!(claim(by("j3", Some("user"))).await, Claim::Repeated(JobId("j1".into())));
        assert_eq!(claim(by("j4", Some("anna"))).await, Claim::Repeated(JobId("j2".into())));
    }

    #[tokio::test]
    async fn a_lost_job_leaves_its_key_to_the_next() {
        let (_folder, store) = crate::checkpoint::tests::store();
        let first = JobId("j0".into());
        assert!(!has_begun(&store, &first).await.unwrap());
        crate::checkpoint::tests::writer(&store, 1, 0).await;
        assert!(has_begun(&store, &first).await.unwrap());
        let (next, last) = (after("k", &first), after("k", &JobId("j1".into())));
        assert_eq!(claim(&store, &next, &record("j1", "1")).await.unwrap(), Claim::First);
        let again = claim(&store, &next, &record("j2", "1")).await.unwrap();
        assert_eq!(again, Claim::Repeated(JobId("j1".into())));
        assert_eq!(claim(&store, &last, &record("j2", "1")).await.unwrap(), Claim::First);
    }
}
