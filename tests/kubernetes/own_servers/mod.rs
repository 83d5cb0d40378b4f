//! Tests that need servers of their own, or their administrator.

mod another_cluster;
mod api_server;
mod authentication;
mod denials;
mod doctor;
mod documents;
mod manifests;
mod nodes;
mod secrets;
mod servers;
