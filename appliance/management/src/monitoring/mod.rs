//! A dashboard for Grafana and alert rules for Prometheus, made from the metrics there are.
//!
//! Pure. The program writes them for packages; a test holds that no query names anything that
//! `/metrics` does not have.

mod alerts;
mod dashboard;

pub use alerts::alert_rules;
pub use dashboard::dashboard;

#[cfg(test)]
mod tests;
