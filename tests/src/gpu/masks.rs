//! Dropout's masks of a step of BERT-large: by the kernel, and by operators, to the bit.

use super::device;
use ptv2_daemon::cuda::masks::Kernel;
use ptv2_daemon::train::dropout::{Dropout, Rates, SharedMasks, Site};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const RATES: Rates = Rates { hidden: 0.1, attention: 0.2, prefix: 0.3, head: 0.5 };
const ROWS: i64 = 32;
/// Steps; the last is timed, when sites are known and memory is reserved.
const STEPS: u64 = 3;

pub(super) fn kernel() -> String {
    let device = device();
    assert!(Kernel::of(device).is_some(), "the kernel was not loaded; the log says why");
    let (kernel, operators) = (SharedMasks::new(device), SharedMasks::by_operators(device));
    // One of each shape; 3 elements are no whole group.
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut sites = sites(kind, device);
        sites.truncate(6);
        sites.push((Site::Convolution, Tensor::ones([3], (kind, device))));
        let found = [&kernel, &operators].map(|masks| factors(masks, 7, &sites));
        for ((site, _), (by_kernel, by_operators)) in
            sites.iter().zip(found[0].iter().zip(&found[1]))
        {
            assert_eq!(by_kernel.kind(), kind);
            assert!(by_kernel.equal(by_operators), "{kind:?}, {site:?}");
        }
    }
    let sites = sites(Kind::BFloat16, device);
    let [by_kernel, by_operators] =
        [&kernel, &operators].map(|masks| milliseconds(masks, &sites, device));
    format!(
        "{} sites of {ROWS} rows of BERT-large: kernel {by_kernel:.2} ms, operators {by_operators:.2} ms",
        sites.len()
    )
}

/// Where BERT-large drops, by tensors of the shapes: S = 128, P = 20.
fn sites(kind: Kind, device: Device) -> Vec<(Site, Tensor)> {
    let like = |shape: &[i64]| Tensor::empty(shape, (kind, device));
    let (hidden, attention) = (like(&[ROWS, 128, 1024]), like(&[ROWS, 16, 128, 148]));
    let mut all = vec![
        (Site::Embeddings, hidden.shallow_clone()),
        (Site::Prefix, like(&[ROWS, 20, 48 * 1024])),
        (Site::Head, like(&[ROWS, 1024])),
    ];
    for layer in 0..24 {
        all.push((Site::Attention(layer), attention.shallow_clone()));
        all.push((Site::AttentionOutput(layer), hidden.shallow_clone()));
        all.push((Site::Output(layer), hidden.shallow_clone()));
    }
    all
}

fn factors(masks: &SharedMasks, step: u64, sites: &[(Site, Tensor)]) -> Vec<Tensor> {
    let dropout = Dropout::new(RATES, 11, step, 3).on_device(masks, [ROWS, 128]).unwrap();
    sites.iter().map(|(site, like)| dropout.factors(like, *site).unwrap().unwrap()).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test measures how long it takes")]
fn milliseconds(masks: &SharedMasks, sites: &[(Site, Tensor)], device: Device) -> f64 {
    let Device::Cuda(index) = device else { return 0.0 };
    let index = i64::try_from(index).unwrap();
    let mut last = 0.0;
    for step in 0..STEPS {
        tch::Cuda::synchronize(index);
        let began = Instant::now();
        drop(factors(masks, step, sites));
        tch::Cuda::synchronize(index);
        last = began.elapsed().as_secs_f64() * 1e3;
    }
    last
}
