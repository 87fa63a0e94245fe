//! The suite, held against every store, our wrappers and a proxy between; and what each fault of a store's
//! server comes to.

use super::conformance::conforms;
use super::failing::Failing;
use super::proxy::{Fault, Met, Proxy, Rule};
use super::servers::{self, Cloud};
use super::store::Harmed;
use bytes::Bytes;
use object_store::memory::InMemory;
use ptv2_common::storage::{
    self, Environment, Put, Store, StoreAddress, StoreSettings, put_content, put_create,
};
use std::sync::Arc;
use std::time::Duration;

fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.unwrap().block_on(work)
}

#[test]
fn a_store_in_memory_conforms() {
    wait(conforms(&(Arc::new(InMemory::new()) as Store)));
}

#[test]
fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    wait(conforms(&storage::open(folder.path().to_str().unwrap()).unwrap()));
}

/// The wrapper that fails on demand does what it says, and then nothing.
#[test]
fn a_failing_store_conforms_once_it_is_done_failing() {
    let inner = Arc::new(InMemory::new()) as Store;
    let store = Arc::new(Harmed::new(Arc::clone(&inner), Failing)) as Store;
    wait(async {
        for (number, is_done, is_told) in
            [(0, true, true), (1, false, false), (2, true, true), (3, true, false)]
        {
            let key = format!("first/{number}");
            let put = put_create(&store, &key, "1".into()).await;
            assert_eq!(put.is_ok(), is_told, "{number}: {put:?}");
            assert_eq!(storage::head(&inner, &key).await.is_ok(), is_done, "{number}");
        }
        for number in 4..7 {
            drop(put_create(&store, &format!("first/{number}"), "1".into()).await);
        }
        conforms(&store).await;
    });
}

/// The store at a prefix that no other test uses, through a proxy that does no harm.
fn conforms_directly_and_through_a_proxy(cloud: &Cloud) {
    wait(conforms(&cloud.open("conformance/directly")));
    let proxy = Proxy::before(cloud.listens);
    let address = cloud.at(proxy.address, "conformance/through a proxy");
    wait(conforms(&address.open_in(&Environment::of(&cloud.variables)).unwrap()));
}

fn refuses_another_key(cloud: &Cloud, secret: &str, said: &str) {
    let mut variables = cloud.variables;
    variables[1].1 = "bm90IHRoZSBrZXk=";
    let store = cloud.at(cloud.listens, "refused").open_in(&Environment::of(&variables)).unwrap();
    let error = wait(put_create(&store, "object", "1".into())).unwrap_err().to_string();
    for part in ["credentials in this process's environment", said] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains(secret) && !error.contains(variables[1].1), "{error}");
}

#[test]
fn an_s3_server_conforms_and_checks_signatures() {
    let cloud = servers::s3();
    conforms_directly_and_through_a_proxy(cloud);
    refuses_another_key(cloud, cloud.variables[0].1, "SignatureDoesNotMatch");
}

#[test]
#[ignore = "`make test-stores` runs it: it sets up another server"]
fn an_azure_server_conforms_and_checks_signatures() {
    let cloud = servers::azure();
    conforms_directly_and_through_a_proxy(cloud);
    refuses_another_key(cloud, cloud.variables[1].1, "AuthorizationFailure");
    each_fault_loses_nothing(cloud);
    each_fault_of_parts_loses_nothing(cloud, FAULTS);
}

const FAULTS: &[Fault] = &[
    Fault::Status(500),
    Fault::SlowDown,
    Fault::Status(429),
    Fault::Reset,
    Fault::Cut(1000),
    Fault::Late(Duration::from_millis(300)),
    Fault::BlackHole,
    Fault::AnswerLost,
];

/// What a put comes to while the server fails once, and when it is tried again.
fn each_fault_loses_nothing(cloud: &Cloud) {
    let proxy = Proxy::before(cloud.listens);
    let bytes = bytes_of(100_000);
    for (number, fault) in FAULTS.iter().enumerate() {
        let rule = Rule { fault: *fault, met: Met::Writes, times: 1 };
        fault_loses_nothing(cloud, &proxy, (&format!("faults/{number}"), rule), &bytes);
    }
}

/// The same of one that goes up in three parts, when the fault meets one of them, and when it meets their end.
fn each_fault_of_parts_loses_nothing(cloud: &Cloud, faults: &[Fault]) {
    let proxy = Proxy::before(cloud.listens);
    let bytes = bytes_of(17 << 20);
    for (number, fault) in faults.iter().enumerate() {
        for met in [Met::Parts, Met::Ends] {
            let rule = Rule { fault: *fault, met, times: 1 };
            let prefix = format!("faults of parts/{number}/{met:?}");
            fault_loses_nothing(cloud, &proxy, (&prefix, rule), &bytes);
        }
    }
}

fn bytes_of(count: usize) -> Bytes {
    (0..count).map(|at| u8::try_from(at % 239).unwrap()).collect()
}

fn fault_loses_nothing(cloud: &Cloud, proxy: &Proxy, (prefix, rule): (&str, Rule), bytes: &Bytes) {
    let Rule { fault, met, .. } = rule;
    let (name, variables) = (format!("{fault:?}, {met:?}"), Environment::of(&cloud.variables));
    let address = cloud.at(proxy.address, prefix);
    // Only what is never answered is waited for: a busy machine answers late.
    let is_waited_for = fault == Fault::BlackHole;
    let patience = if is_waited_for { Duration::from_secs(1) } else { address.settings.patience };
    let with = |retries| {
        let settings = StoreSettings { patience, retries, ..address.settings.clone() };
        StoreAddress { settings, ..address.clone() }.open_in(&variables).unwrap()
    };
    let (store, calm) = (with(0), address.open_in(&variables).unwrap());
    let directly = cloud.open(prefix);
    proxy.does(rule);
    let put = |store| put_content(store, "object", bytes.clone());
    let first = wait(beside(&directly, bytes.len(), put(&store)));
    assert_eq!(first.is_ok(), matches!(fault, Fault::Late(_)), "{name}: {first:?}");
    assert_eq!(proxy.hits(), 1, "{name}");
    // An answer to a part that is lost is a part that is lost.
    let is_done = first.is_ok() || (fault == Fault::AnswerLost && met != Met::Parts);
    let listed = || wait(storage::list(&directly, "")).unwrap();
    assert_eq!(listed().len(), usize::from(is_done), "{name}");
    let again = wait(beside(&directly, bytes.len(), put(&calm))).unwrap();
    assert_eq!(again, if is_done { Put::Existed } else { Put::Created }, "{name}");
    assert_eq!(listed(), ["object"], "{name}");
    // What reads is tried again below, and needs nobody to.
    proxy.does(Rule { met: Met::All, ..rule });
    let found = wait(storage::get(&with(3), "object"));
    let is_told = matches!(fault, Fault::BlackHole | Fault::AnswerLost | Fault::Reset);
    match found {
        Ok(found) => assert!(found == *bytes, "{name}"),
        Err(error) => assert!(is_told, "{name}: {error}"),
    }
    proxy.heals();
    assert!(wait(storage::get(&calm, "object")).unwrap() == *bytes, "{name}");
}

/// Looks at the store again and again while something is put there, of which nothing is to be seen but all.
async fn beside<T>(store: &Store, bytes: usize, put: impl Future<Output = T>) -> T {
    let mut put = std::pin::pin!(put);
    loop {
        tokio::select! {
            done = &mut put => return done,
            listed = storage::objects(store, "") => {
                for meta in listed.unwrap() {
                    assert_eq!(meta.size, bytes as u64, "{}", meta.location);
                }
            }
        }
    }
}

#[test]
fn each_fault_of_an_s3_server_loses_nothing() {
    each_fault_loses_nothing(servers::s3());
}

/// The short form: a part breaks off, and the answer to the end is lost.
#[test]
fn an_upload_in_parts_to_an_s3_server_loses_nothing() {
    each_fault_of_parts_loses_nothing(servers::s3(), &[Fault::Cut(1000), Fault::AnswerLost]);
}

#[test]
#[ignore = "takes a minute: `make test-stores`"]
fn each_fault_of_an_upload_in_parts_to_an_s3_server_loses_nothing() {
    each_fault_of_parts_loses_nothing(servers::s3(), FAULTS);
}
