//! The short form of `make chaos`.

#[test]
fn some_dozens_of_faults_change_no_bit() {
    crate::chaos::short();
}
