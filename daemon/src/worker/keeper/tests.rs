use super::*;
use crate::checkpoint::tests::{state, with_best};
use futures_util::FutureExt;

fn keeper() -> Keeper {
    Keeper { desk: Arc::new(Desk::default()) }
}

/// The step of what is written next, if anything waits.
fn next(keeper: &Keeper) -> Option<u64> {
    match keeper.desk.next().now_or_never()? {
        Task::Due(state) | Task::Regular(state) => Some(state.step),
        Task::Last(last, _) => Some(last.state.step),
        Task::Closed => None,
    }
}

/// Whoever trains leaves a state and goes on, however long the one before is on its way.
#[test]
fn of_what_waits_for_an_upload_the_newest_follows_alone() {
    let keeper = keeper();
    keeper.offer(state(1));
    assert_eq!(next(&keeper), Some(1), "its upload does not end");
    for step in 2..=4 {
        keeper.offer(state(step));
    }
    assert_eq!(next(&keeper), Some(4));
    assert_eq!(next(&keeper), None);
    // A best one has a place of its own, and goes first.
    for step in 5..=7 {
        keeper.offer(with_best(step, 5));
    }
    keeper.offer(with_best(8, 8));
    keeper.offer(with_best(9, 9));
    assert_eq!([next(&keeper), next(&keeper), next(&keeper)], [Some(9), Some(7), None]);
    // The last state stands for those that wait.
    keeper.offer(state(10));
    let files = Vec::new();
    let _answer = keeper.finish(Last { state: Arc::new(state(11)), files });
    assert_eq!([next(&keeper), next(&keeper)], [Some(11), None]);
}

/// The wait that is told begins with the first attempt, and ends when the store has taken something.
#[tokio::test(start_paused = true)]
async fn a_wait_for_the_store_is_told_from_its_beginning() {
    let mut since = Since::default();
    let mut told = Vec::new();
    let away = async |seconds| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Err::<(), _>(Explained::new("away"))
    };
    let mut attempt = async |seconds, since: &mut Since| {
        let ended = watched(away(seconds), since, |_, waited| told.push(waited.as_secs())).await;
        assert!(ended.is_err());
        told.push(since.waited().as_secs());
    };
    // Not late, then late; a pause of 3 s between.
    attempt(2, &mut since).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    attempt(20, &mut since).await;
    assert_eq!(told, [2, 10, 25]);
    watched(async { Ok(()) }, &mut since, |_, _| panic!("it is not late")).await.unwrap();
    assert_eq!(since.waited(), Duration::ZERO);
}
