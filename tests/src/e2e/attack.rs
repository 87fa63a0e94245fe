//! Attacks on a coordinator that trains: `attack` has them. All of them, at full length, are
//! `make test-attack`.

use super::harness::{root, superglue};
use crate::attack::{self, Effort, Target};

#[test]
fn nobody_may_more_than_the_token_says() {
    let Some(data) = superglue() else { return };
    let target = Target::start(&data);
    attack::of_routes(&target);
    attack::of_names(&target, Effort::Short);
}

#[test]
fn greedy_and_hostile_requests_cost_little_and_hold_up_nobody() {
    let Some(data) = superglue() else { return };
    let target = Target::start(&data);
    attack::of_all_else(&target, Effort::Short).holds();
}

#[test]
fn strangers_at_a_groups_door_learn_nothing_and_change_nothing() {
    attack::of_groups(Effort::Short);
}

#[test]
fn what_others_wrote_steers_no_terminal() {
    attack::of_terminals();
}

/// All attacks at full length; the table lands in `target/attacks.md`.
#[test]
#[ignore = "three minutes; make test-attack"]
fn all_attacks_at_full_length() {
    let Some(data) = superglue() else { return };
    let target = Target::start(&data);
    attack::of_routes(&target);
    attack::of_names(&target, Effort::Full);
    let table = attack::of_all_else(&target, Effort::Full);
    let groups = attack::of_groups(Effort::Full).text();
    let text = format!("{}\n{groups}", table.text());
    std::fs::write(root().join("target/attacks.md"), text).unwrap();
    table.holds();
}

/// How soon a coordinator with much to remember answers; the table lands in `target/api.md`.
#[test]
#[ignore = "on an idle machine; make bench-api"]
fn status_beside_many_followers() {
    let text = attack::of_followers(1000, 100);
    println!("{text}");
    std::fs::write(root().join("target/api.md"), text).unwrap();
}
