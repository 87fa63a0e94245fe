//! The calls themselves, two communicators on one thread: none of them blocks.

use super::super::{Communicator, NcclError, Piece, State, Transfer};
use super::{Library, stand_in};
use crate::clock;
use std::path::Path;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

const SOON: Duration = Duration::from_secs(10);

/// Waits until neither has anything in progress; what each has come to.
fn settled(both: [&Communicator; 2]) -> [Result<State, NcclError>; 2] {
    let deadline = clock::now() + SOON;
    loop {
        let found = both.map(Communicator::state);
        if !found.contains(&Ok(State::InProgress)) {
            return found;
        }
        assert!(clock::now() < deadline, "{found:?}");
        std::thread::yield_now();
    }
}

fn pair() -> [Communicator; 2] {
    let library = Library::find(Some(stand_in())).unwrap();
    let id = library.unique_id().unwrap();
    let both =
        [0, 1].map(|rank| Communicator::begin(&library, &id, (rank, 2), Device::Cpu).unwrap());
    assert_eq!(settled([&both[0], &both[1]]), [Ok(State::Ready), Ok(State::Ready)]);
    both
}

fn to(peer: u32, tensor: &Tensor) -> [Transfer<'_>; 1] {
    [Transfer { peer, piece: Piece::all(tensor) }]
}

#[test]
fn what_is_sent_arrives_and_what_is_gathered_is_in_order() {
    let [one, other] = pair();
    let sent =
        [1.0_f32, 2.0].map(|value| Tensor::full([5], f64::from(value), (Kind::Float, Device::Cpu)));
    let got = [0, 1].map(|_| Tensor::zeros([5], (Kind::Float, Device::Cpu)));
    one.exchange(&to(1, &sent[0]), &to(1, &got[0])).unwrap();
    other.exchange(&to(0, &sent[1]), &to(0, &got[1])).unwrap();
    assert_eq!(settled([&one, &other]), [Ok(State::Ready), Ok(State::Ready)]);
    assert_eq!((&got[0], &got[1]), (&sent[1], &sent[0]));

    let all = [0, 1].map(|rank| {
        let values: Vec<f32> =
            (0..6).map(|at| if at / 3 == rank { at as f32 } else { 0.0 }).collect();
        Tensor::from_slice(&values)
    });
    one.all_gather(&all[0], 3).unwrap();
    other.all_gather(&all[1], 3).unwrap();
    assert_eq!(settled([&one, &other]), [Ok(State::Ready), Ok(State::Ready)]);
    assert_eq!(all[0], Tensor::from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(all[0], all[1]);
}

#[test]
fn what_a_rank_sends_itself_arrives_beside_what_goes_to_others() {
    let [one, other] = pair();
    let host = (Kind::Float, Device::Cpu);
    // More than the stand-in moves at once.
    let sent = [1.0, 2.0, 3.0].map(|value| Tensor::full([40_000], value, host));
    let got = [0, 1, 2].map(|_| Tensor::zeros([40_000], host));
    let piece = |peer, tensor| Transfer { peer, piece: Piece::all(tensor) };
    let sends = [piece(0, &sent[0]), piece(1, &sent[1]), piece(0, &sent[2])];
    one.exchange(&sends, &[piece(0, &got[0]), piece(0, &got[2])]).unwrap();
    other.exchange(&[], &to(0, &got[1])).unwrap();
    assert_eq!(settled([&one, &other]), [Ok(State::Ready), Ok(State::Ready)]);
    assert_eq!(got, sent);
}

/// What the real library would answer with a hang or wrong numbers.
#[test]
fn sides_that_mean_different_things_are_told() {
    let [one, other] = pair();
    let (short, long) = (
        Tensor::zeros([4], (Kind::Float, Device::Cpu)),
        Tensor::zeros([5], (Kind::Float, Device::Cpu)),
    );
    one.exchange(&to(1, &long), &[]).unwrap();
    other.exchange(&[], &to(0, &short)).unwrap();
    let [_, found] = settled([&one, &other]);
    let said = found.unwrap_err().to_string();
    assert!(said.contains("on rank 1") && said.contains("of 4 elements"), "{said}");
    assert!(said.contains("invalid usage"), "{said}");
}

#[test]
fn wrong_arguments_are_named_before_the_call() {
    let [one, other] = pair();
    let good = Tensor::zeros([4], (Kind::Float, Device::Cpu));
    let refused = |tensor: &Tensor| one.all_reduce(tensor).unwrap_err().to_string();
    let wrong = [
        (Tensor::zeros([4], (Kind::Double, Device::Cpu)), "Double"),
        (Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).transpose(0, 1), "not contiguous"),
        (Tensor::new(), "undefined"),
        (Tensor::zeros([0], (Kind::Float, Device::Cpu)), "no memory"),
    ];
    for (tensor, why) in &wrong {
        let said = refused(tensor);
        assert!(said.contains("ncclAllReduce") && said.contains(why), "{said}");
    }
    let said = one.exchange(&to(2, &good), &[]).unwrap_err().to_string();
    assert!(said.contains("there is no rank 2 in a group of 2"), "{said}");
    let said = one.exchange(&to(0, &good), &to(1, &good)).unwrap_err().to_string();
    assert!(said.contains("it sends itself [4] elements and receives []"), "{said}");
    let far = [Transfer { peer: 1, piece: Piece { tensor: &good, elements: 2..5 } }];
    let said = one.exchange(&far, &[]).unwrap_err().to_string();
    assert!(said.contains("elements 2..5 of a tensor of 4"), "{said}");
    let said = one.all_gather(&good, 3).unwrap_err().to_string();
    assert!(said.contains("4 elements, expected 2 times 3"), "{said}");
    // Nothing of it reached the library.
    assert_eq!(settled([&one, &other]), [Ok(State::Ready), Ok(State::Ready)]);
}

#[test]
fn after_its_end_a_communicator_is_not_called_any_more() {
    let [one, other] = pair();
    let tensor = Tensor::zeros([4], (Kind::Float, Device::Cpu));
    // In the midst of an operation, since the other rank does not take part.
    one.all_reduce(&tensor).unwrap();
    assert_eq!(one.state(), Ok(State::InProgress));
    one.abort().unwrap();
    one.abort().unwrap();
    let ended =
        |found: Result<(), NcclError>| matches!(found, Err(NcclError::Ended { rank: 0, .. }));
    assert!(ended(one.all_reduce(&tensor)) && ended(one.state().map(drop)) && ended(one.destroy()));
    other.finalize().unwrap();
    other.destroy().unwrap();
    assert!(other.state().is_err());
}

#[test]
fn a_library_that_is_none_is_explained() {
    let missing = Library::find(Some(Path::new("/nowhere/libnccl.so.2"))).unwrap_err();
    assert!(missing.what.contains("/nowhere/libnccl.so.2"), "{missing:?}");
    assert!(missing.hint.unwrap().contains("PTV2_NCCL"));
    // A library, but another one.
    let other = Library::find(Some(Path::new("libm.so.6"))).unwrap_err();
    assert!(other.what.contains("ncclGetVersion"), "{other:?}");
}
