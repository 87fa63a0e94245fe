//! What kind of file system the journal lies on.

use ptv2_common::error::Explained;
use std::path::Path;

/// What kind of file system a folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// One of this machine.
    Local,
    /// One that other machines have, too, by this name. Memory that is shared by way of it is not to be had, or
    /// not to be relied upon.
    Network(&'static str),
}

/// Numbers of file systems, as `statfs` gives them, which lie on a network, or may.
const NETWORKS: [(u32, &str); 19] = [
    (0x6969, "NFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0102_1997, "9P"),
    (0x786f_4256, "a host's shared folder"),
    // GlusterFS, SSHFS, S3 and others.
    (0x6573_5546, "FUSE"),
];

/// What the file system of this number is.
pub(super) fn kind(number: u32) -> Disk {
    let known = NETWORKS.iter().find(|(network, _)| *network == number);
    known.map_or(Disk::Local, |(_, name)| Disk::Network(name))
}

/// What a folder lies on.
///
/// # Errors
/// When the system does not say.
pub(super) fn of(folder: &Path) -> Result<Disk, Explained> {
    // A file in the current folder has an empty one.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let found = rustix::fs::statfs(folder).map_err(|error| {
        Explained::new(format!("its file system cannot be told: {error}"))
            .at(folder.display().to_string())
    })?;
    // The field is signed or not, wide or not, from one machine to another; the numbers have 32 bits.
    let number = i128::from(found.f_type) & i128::from(u32::MAX);
    Ok(kind(u32::try_from(number).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_networks_are_known_by_their_numbers() {
        assert_eq!(kind(0x6969), Disk::Network("NFS"));
        assert_eq!(kind(0x0bd0_0bd0), Disk::Network("Lustre"));
        assert_eq!(kind(0xff53_4d42), Disk::Network("CIFS"));
        assert_eq!(kind(0x4750_4653), Disk::Network("GPFS"));
        // ext4, xfs, btrfs, tmpfs, overlayfs, zfs.
        for number in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(kind(number), Disk::Local, "{number:#x}");
        }
    }

    #[test]
    fn the_system_tells() {
        assert_eq!(of(Path::new("/proc")).unwrap(), Disk::Local);
        assert!(of(Path::new("")).is_ok());
        assert!(of(Path::new("/none")).unwrap_err().place.unwrap().contains("/none"));
    }
}
