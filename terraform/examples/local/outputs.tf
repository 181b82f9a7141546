output "regions" {
  description = "Where each region answers."
  value       = { for name, deployment in module.deployment : name => deployment.region }
}
