//! The contract of executors on a real Kubernetes cluster.
