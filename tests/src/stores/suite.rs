//! The suite, held against every store, our wrappers and a proxy between; and what each fault of a store's
//! server comes to.

use super::conformance::conforms;
use super::failing::{Failing, Harmed};
use super::proxy::{Fault, Proxy, Rule};
use super::servers::{self, Cloud};
use object_store::memory::InMemory;
use ptv2_common::storage::{self, Environment, Put, Store, StoreSettings, put_create};
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
}

/// What a create-only put comes to while the server fails once, and when it is tried again.
fn each_fault_loses_nothing(cloud: &Cloud) {
    let proxy = Proxy::before(cloud.listens);
    let patience = Duration::from_secs(1);
    let variables = Environment::of(&cloud.variables);
    let faults = [
        Fault::Status(500),
        Fault::SlowDown,
        Fault::Status(429),
        Fault::Reset,
        Fault::Cut(1000),
        Fault::Late(Duration::from_millis(300)),
        Fault::BlackHole,
        Fault::AnswerLost,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let mut address = cloud.at(proxy.address, &format!("faults/{number}"));
        address.settings = StoreSettings { patience, retries: 0, ..address.settings };
        let store = address.open_in(&variables).unwrap();
        let bytes = bytes::Bytes::from(vec![7; 100_000]);
        proxy.does(Rule { fault, writes: true, times: 1 });
        let first = wait(put_create(&store, "object", bytes.clone()));
        assert_eq!(first.is_ok(), matches!(fault, Fault::Late(_)), "{fault:?}: {first:?}");
        assert_eq!(proxy.hits(), 1, "{fault:?}");
        let again = wait(put_create(&store, "object", bytes.clone())).unwrap();
        let was_done = matches!(fault, Fault::Late(_) | Fault::AnswerLost);
        assert_eq!(again, if was_done { Put::Existed } else { Put::Created }, "{fault:?}");
        // What reads is tried again below, and needs nobody to.
        address.settings = StoreSettings { retries: 3, ..address.settings };
        let store = address.open_in(&variables).unwrap();
        proxy.does(Rule { fault, writes: false, times: 1 });
        let found = wait(storage::get(&store, "object"));
        let is_told = matches!(fault, Fault::BlackHole | Fault::AnswerLost | Fault::Reset);
        match found {
            Ok(found) => assert_eq!(found, bytes, "{fault:?}"),
            Err(error) => assert!(is_told, "{fault:?}: {error}"),
        }
        proxy.heals();
        assert_eq!(wait(storage::get(&store, "object")).unwrap(), bytes, "{fault:?}");
    }
}

#[test]
fn each_fault_of_an_s3_server_loses_nothing() {
    each_fault_loses_nothing(servers::s3());
}
