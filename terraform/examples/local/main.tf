# Adds regions to the demo that runs on this machine (`make up DETACH=1`), and takes them away again.
terraform {
  required_version = ">= 1.7"
}

locals {
  root = abspath("${path.module}/../../..")
}

module "region" {
  source   = "../../modules/region"
  for_each = var.regions
  name     = each.key
  labels   = each.value.labels
}

module "deployment" {
  source    = "../../modules/region/flavours/local"
  for_each  = module.region
  spec      = each.value.spec
  program   = coalesce(var.program, "${local.root}/target/debug/local")
  state_dir = coalesce(var.state_dir, "${local.root}/.local")
}
