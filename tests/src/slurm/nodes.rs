//! Lists of nodes, as Slurm itself expands them.

use super::lab::slurm;
use ptv2_common::slurm::hostnames;

/// A list of some items, each a name with up to two brackets of ranges. Slurm takes nothing after a bracket
/// but another one.
fn list(random: &mut fastrand::Rng) -> String {
    let items = (0..random.usize(1..4)).map(|_| {
        let mut item = String::from(random.choice(["n", "node-", "rack", "gpu_x"]).unwrap());
        for _ in 0..random.usize(0..3) {
            let width = random.usize(0..4);
            let ranges = (0..random.usize(1..4)).map(|_| {
                let (first, more) = (random.u32(0..1100), random.u32(0..4));
                let last = first + more;
                match more {
                    0 => format!("{first:0width$}"),
                    _ => format!("{first:0width$}-{last:0width$}"),
                }
            });
            let ranges = ranges.collect::<Vec<_>>().join(",");
            item += &format!("[{ranges}]");
            if random.bool() {
                break;
            }
        }
        item
    });
    items.collect::<Vec<_>>().join(",")
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn lists_are_expanded_as_slurm_does_it() {
    let seed = 20;
    let mut random = fastrand::Rng::with_seed(seed);
    let lists = (0..200).map(|_| list(&mut random));
    for list in lists.chain(["a[01-03,07],b2".into(), "n[0-1]".into()]) {
        let expected = slurm("scontrol", &["show", "hostnames", &list]);
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(hostnames(&list).unwrap(), expected, "{list}, seed {seed}");
    }
}
