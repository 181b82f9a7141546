//! deploy/local from the outside: the command line, the library, the relays. Everything here runs real programs.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod common;
#[cfg(test)]
mod links;
#[cfg(test)]
mod services;
#[cfg(test)]
mod up;
