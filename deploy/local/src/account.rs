//! The user Postgres runs as: itself refuses to be root, so as root another user is borrowed; anybody else runs it as
//! who they are.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{User, geteuid};

use crate::failure::Failure;

/// Users without rights of their own that systems bring along, the best fit first.
const CANDIDATES: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// An unprivileged user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The user for Postgres, or none when this process is not root and needs no other.
    pub fn for_postgres() -> anyhow::Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let found = CANDIDATES.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = found.ok_or_else(|| {
            Failure::new(
                "Postgres refuses to run as root and this machine has no user `postgres` or `nobody`",
                "create one with `useradd --system postgres`",
            )
        })?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Whether this user can reach a folder, that is, pass through all folders above it.
    fn reaches(&self, folder: &Path) -> bool {
        folder.ancestors().filter(|ancestor| ancestor.exists()).all(|ancestor| {
            std::fs::metadata(ancestor).is_ok_and(|meta| {
                let bit = if meta.uid() == self.uid {
                    0o100
                } else if meta.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                meta.mode() & bit != 0
            })
        })
    }
}

/// A folder for data that `account` can reach: `wished` where possible, else a fresh one under /var/tmp or /tmp.
pub(crate) fn reachable_folder(wished: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let folder = match account {
        Some(account) if !account.reaches(wished) => {
            let name = format!("gocomet-{}", crate::secrets::hex(8));
            let places = [Path::new("/var/tmp"), Path::new("/tmp")];
            let place = places.into_iter().find(|place| place.is_dir() && account.reaches(place));
            let fix = format!("move the project to where the user `{}` may go", account.name);
            place
                .ok_or_else(|| {
                    Failure::new(format!("no folder for data that the user `{}` can reach", account.name), fix)
                })?
                .join(name)
        }
        _ => wished.to_owned(),
    };
    make_folder(&folder)?;
    Ok(folder)
}

/// A folder that others may pass through, whatever the umask says.
pub(crate) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot change {}", folder.display()))
}

/// A folder that belongs to `account` alone.
pub(crate) fn make_own_folder(folder: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    if let Some(account) = account {
        chown(folder, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot give {} to {}", folder.display(), account.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_above_is_out_of_reach() {
        let top = std::env::temp_dir().join(format!("gocomet-account-{}", crate::secrets::hex(8)));
        let inner = top.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let stranger = Account { name: "stranger".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        std::fs::set_permissions(&top, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.reaches(&inner));
        std::fs::set_permissions(&top, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(stranger.reaches(&inner));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
