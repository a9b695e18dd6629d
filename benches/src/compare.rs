//! Comparisons: the appliance and its peers in alternating rounds of one run, as ratios against
//! goals. The binary `compare` is a command line over [`run`].

pub mod appliance;
pub mod chart;
pub mod contender;
pub mod control;
pub mod driven;
pub mod figures;
pub mod flooded;
pub mod floor;
pub mod goals;
pub mod iroh;
pub mod libp2p;
pub mod options;
pub mod process;
pub mod proxy;
pub mod report;
pub mod rows;
pub mod run;
pub mod turn;
pub mod verdict;
