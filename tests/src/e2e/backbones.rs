//! Where a backbone's files come from is no part of the result.

use super::harness::{Cluster, hash, superglue, tiny, tiny_cb};

#[test]
fn shards_give_the_bits_of_one_file() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let job = tiny_cb(&data, "");
    let sharded = tiny().with_file_name("backbone-sharded").display().to_string();
    let of_shards = cluster.run(&job.replace(&tiny().display().to_string(), &sharded), &[]);
    assert_eq!(hash(&of_shards), hash(&cluster.run(&job, &[])));
}
