//! Fixes that several checks suggest.

/// Fix for a check that needs more permissions than the server needs.
pub const AS_ADMINISTRATOR: &str = "img-classification doctor --kubeconfig FILE, with an administrator's kubeconfig";

/// Fix that writes the kubeconfig of an EKS cluster.
pub const UPDATE_KUBECONFIG: &str = "img-classification setup --eks-kubeconfig CLUSTER --region REGION";

/// Fix that creates or repairs the objects of the cluster.
pub const SETUP: &str = "img-classification setup";
