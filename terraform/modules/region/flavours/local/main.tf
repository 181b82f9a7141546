# The region as part of the demo on this machine. terraform_data is built into Terraform: nothing is downloaded.

locals {
  program      = abspath(var.program)
  state_dir    = abspath(var.state_dir)
  cluster_file = "${local.state_dir}/cluster.json"
}

resource "terraform_data" "region" {
  # The destroy-time provisioner sees nothing but this.
  input = {
    name      = var.spec.name
    program   = local.program
    state_dir = local.state_dir
  }
  triggers_replace = [var.spec.name, local.state_dir]

  lifecycle {
    precondition {
      condition     = fileexists(local.program)
      error_message = "There is no program at ${local.program}: `make up` or `cargo build` makes it."
    }
    precondition {
      condition     = fileexists(local.cluster_file)
      error_message = "No demo runs from ${local.state_dir}: start it with `make up DETACH=1`."
    }
  }

  provisioner "local-exec" {
    command = "exec \"$PROGRAM\" --state-dir \"$STATE_DIR\" region add \"$REGION\""
    environment = {
      PROGRAM   = self.input.program
      STATE_DIR = self.input.state_dir
      REGION    = self.input.name
    }
  }

  # A demo that has ended took its regions with it, and one whose start failed never entered the list: neither may keep
  # Terraform from forgetting the region.
  provisioner "local-exec" {
    when    = destroy
    command = <<-END
      if ! grep -q "\"name\": *\"$REGION\"" "$STATE_DIR/cluster.json" 2>/dev/null; then
        echo "$REGION does not run: nothing to remove"
        exit 0
      fi
      exec "$PROGRAM" --state-dir "$STATE_DIR" region remove "$REGION"
    END
    environment = {
      PROGRAM   = self.input.program
      STATE_DIR = self.input.state_dir
      REGION    = self.input.name
    }
  }
}

locals {
  # The id is unknown until the region is there, so the file is read after `region add`, not while planning it.
  read_from = terraform_data.region.id == "" ? "" : local.cluster_file
  cluster   = jsondecode(fileexists(local.read_from) ? file(local.read_from) : "{\"regions\": []}")
  found     = one([for region in local.cluster.regions : region if region.name == var.spec.name])
}

check "it_runs" {
  assert {
    condition     = local.found != null
    error_message = "${var.spec.name} is not among the regions in ${local.cluster_file}. If the demo was started anew: terraform apply -replace."
  }
}
