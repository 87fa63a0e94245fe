use super::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A state folder's tokens, as a coordinator that starts finds them.
async fn open(folder: &TempDir, now: u64) -> Tokens {
    let (journal, _) = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
    Tokens::open(folder.path(), &journal, now).await.unwrap()
}

fn new(name: &str, scope: Scope) -> NewToken {
    NewToken { name: name.into(), scope, expires_s: None, uses: None }
}

fn worker(number: u8) -> WorkerId {
    WorkerId::from_random([number; 5])
}

fn file(folder: &TempDir, name: &str) -> String {
    std::fs::read_to_string(folder.path().join(name)).unwrap().trim().to_owned()
}

fn refused(denied: Result<Admitted, Denied>) -> String {
    match denied {
        Err(Denied::Refused(error)) => error.what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_two_of_the_state_folder_are_made_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let files = || ["token", "worker-token"].map(|name| file(&folder, name));
    drop(open(&folder, 1).await);
    let first = files();
    let tokens = open(&folder, 2).await;
    assert_eq!(files(), first);
    let [admin, join] = &first;
    let caller = tokens.caller(admin, None, 3).unwrap();
    assert_eq!((caller.principal.as_str(), caller.scope), ("user", Scope::Admin));
    assert_eq!(tokens.caller(join, None, 3).unwrap().scope, Scope::Worker);
    let mode = |name| folder.path().join(name).metadata().unwrap().permissions().mode();
    assert_eq!((mode("token") & 0o777, mode("worker-token") & 0o777), (0o600, 0o600));
    let listed: Vec<_> =
        tokens.list().into_iter().map(|one| (one.file, one.made_unix_ms)).collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.iter().all(|(file, made)| file.is_some() && *made == 1), "{listed:?}");
}

/// A state folder of before tokens had names.
#[tokio::test]
async fn tokens_of_an_older_version_keep_working() {
    let folder = tempfile::tempdir().unwrap();
    let old = "0123456789abcdef".repeat(4);
    std::fs::write(folder.path().join("token"), format!("{old}\n")).unwrap();
    let tokens = open(&folder, 1).await;
    assert_eq!(tokens.caller(&old, None, 1).unwrap().principal, "user");
    std::fs::write(folder.path().join("token"), "short").unwrap();
    let (journal, _) = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
    let error = Tokens::open(folder.path(), &journal, 2).await.unwrap_err();
    assert!(error.hint.unwrap().contains("remove the file"));
}

#[tokio::test]
async fn a_token_is_made_used_listed_and_revoked_over_restarts_and_only_its_hash_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 1).await;
    let made = tokens.create(new("anna", Scope::Submit), 5).await.unwrap();
    let text = made.token.expose().to_owned();
    assert_eq!(text.len(), "ptv2_".len() + 8 + 1 + 64);
    assert!(text.starts_with(&format!("ptv2_{}_", made.status.id)), "its id is its beginning");
    assert!(!format!("{made:?} {tokens:?}").contains(&text));
    drop(tokens);
    let tokens = open(&folder, 6).await;
    let caller = tokens.caller(&text, None, 6).unwrap();
    assert_eq!(
        (caller.principal.as_str(), caller.token.as_str()),
        ("anna", made.status.id.as_str())
    );
    assert!(tokens.caller(&text[..text.len() - 1], None, 6).is_none());
    assert!(tokens.caller(&format!("{text}0"), None, 6).is_none());
    for entry in folder.path().read_dir().unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        let secret = &text.as_bytes()[14..];
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{:?}", entry.path());
    }
    let mut seen = tokens.revocations();
    let revoked = tokens.revoke(&made.status.id, 7).await.unwrap();
    assert_eq!((revoked.revoked_unix_ms, revoked.last_used_unix_ms), (Some(7), Some(6)));
    assert!(seen.has_changed().unwrap() && !tokens.is_good(&made.status.id));
    seen.mark_unchanged();
    assert_eq!(tokens.revoke(&made.status.id, 8).await.unwrap().revoked_unix_ms, Some(7));
    drop(tokens);
    assert!(open(&folder, 9).await.caller(&text, None, 9).is_none());
}

#[tokio::test]
async fn a_token_ends_at_its_time_and_is_listed_for_a_month_more() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 0).await;
    let short = NewToken { expires_s: Some(10), ..new("anna", Scope::Read) };
    let made = tokens.create(short, 5_000).await.unwrap();
    let is_good = |now| tokens.caller(made.token.expose(), None, now).is_some();
    assert!(is_good(14_999) && !is_good(15_000));
    assert_eq!(tokens.list().len(), 3);
    tokens.create(new("ben", Scope::Read), 29 * DAY_MS).await.unwrap();
    assert_eq!(tokens.list().len(), 4);
    tokens.create(new("carl", Scope::Read), 31 * DAY_MS).await.unwrap();
    assert!(tokens.list().iter().all(|one| one.name != "anna"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 0).await;
    let check = async |new: NewToken, place: &str| match tokens.create(new.clone(), 0).await {
        Err(Denied::Malformed(error)) => assert_eq!(error.place.as_deref(), Some(place), "{new:?}"),
        other => panic!("{new:?}: {other:?}"),
    };
    let long = "a".repeat(65);
    for name in ["", "Anna", "-a", "a b", "a/b", "a\u{1b}[2J", "user", "worker", long.as_str()] {
        check(new(name, Scope::Read), "name").await;
    }
    check(NewToken { expires_s: Some(0), ..new("a", Scope::Read) }, "expires_s").await;
    check(NewToken { uses: Some(0), ..new("a", Scope::Worker) }, "uses").await;
    check(NewToken { uses: Some(1), ..new("a", Scope::Admin) }, "uses").await;
    assert!(matches!(tokens.revoke("none", 0).await, Err(Denied::Unknown(_))));
    assert_eq!(tokens.list().len(), 2);
}

#[tokio::test]
async fn one_of_the_state_folder_is_replaced_when_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 0).await;
    let old = file(&folder, "token");
    let id = tokens.caller(&old, None, 0).unwrap().token;
    tokens.revoke(&id, 1).await.unwrap();
    let next = file(&folder, "token");
    assert!(tokens.caller(&old, None, 1).is_none());
    assert_eq!(tokens.caller(&next, None, 1).unwrap().principal, "user");
    drop(tokens);
    // Who puts the old one back has not made it good again.
    std::fs::write(folder.path().join("token"), &old).unwrap();
    let tokens = open(&folder, 2).await;
    assert!(tokens.caller(&old, None, 2).is_none());
    let third = file(&folder, "token");
    assert!(third != old && tokens.caller(&third, None, 2).is_some());
    assert!(tokens.caller(&next, None, 2).is_none(), "it lies there no more");
}

#[tokio::test]
async fn a_join_token_is_good_for_so_many_workers_and_all_their_connections() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 0).await;
    let once = NewToken { uses: Some(1), expires_s: Some(10), ..new("node-7", Scope::Worker) };
    let made = tokens.create(once, 0).await.unwrap();
    let (text, id) = (made.token.expose(), made.status.id.as_str());
    assert_eq!(tokens.admit(&worker(1), "secret-1", id, 1).await.unwrap(), Admitted::Newly);
    let left = |tokens: &Tokens| tokens.list().iter().find(|one| one.id == id).unwrap().uses_left;
    assert_eq!(left(&tokens), Some(0));
    assert!(tokens.caller(text, None, 2).is_none(), "nobody else may come by it");
    assert!(tokens.caller(text, Some("secret-2"), 2).is_none());
    assert!(refused(tokens.admit(&worker(2), "secret-2", id, 2).await).contains("no other worker"));
    // The same worker, when the coordinator was started again and the token's time is over.
    drop(tokens);
    let tokens = open(&folder, 20_000).await;
    assert!(tokens.caller(text, Some("secret-1"), 20_000).is_some());
    let again = tokens.admit(&worker(1), "secret-1", id, 20_000).await.unwrap();
    assert_eq!(again, Admitted::Before);
    // Another process cannot speak in its name, whatever token it has.
    let join = tokens.caller(&file(&folder, "worker-token"), None, 20_000).unwrap().token;
    let taken = refused(tokens.admit(&worker(1), "secret-2", &join, 20_000).await);
    assert!(taken.contains("another process"), "{taken}");
    // Until the token is revoked: then it may not stay, and its id is still nobody else's.
    assert!(tokens.is_admitted(&worker(1)));
    tokens.revoke(id, 20_001).await.unwrap();
    assert!(!tokens.is_admitted(&worker(1)));
    assert!(tokens.caller(text, Some("secret-1"), 20_001).is_none());
    assert!(refused(tokens.admit(&worker(1), "secret-2", &join, 20_001).await).contains("another"));
    assert_eq!(tokens.admit(&worker(1), "secret-1", &join, 20_001).await.unwrap(), Admitted::Newly);
}

#[tokio::test]
async fn of_two_that_come_at_once_by_a_token_for_one_one_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = open(&folder, 0).await;
    let made =
        tokens.create(NewToken { uses: Some(1), ..new("n", Scope::Worker) }, 0).await.unwrap();
    let (one, other) = (worker(1), worker(2));
    let (one, other) = tokio::join!(
        tokens.admit(&one, "secret-1", &made.status.id, 1),
        tokens.admit(&other, "secret-2", &made.status.id, 1),
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}
