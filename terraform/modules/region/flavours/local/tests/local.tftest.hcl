variables {
  spec    = { name = "sa-east" }
  program = "./tests/fake-local"
}

run "a_running_demo" {
  module {
    source = "./tests/setup"
  }
}

run "no_demo_no_region" {
  command = plan
  variables {
    state_dir = "/nonexistent"
  }
  expect_failures = [terraform_data.region]
}

run "no_program_no_region" {
  command = plan
  variables {
    state_dir = run.a_running_demo.state_dir
    program   = "./tests/missing"
  }
  expect_failures = [terraform_data.region]
}

run "apply_adds_the_region_and_reads_where_it_answers" {
  variables {
    state_dir = run.a_running_demo.state_dir
  }
  assert {
    condition = output.region == {
      name            = "sa-east"
      http            = "http://127.0.0.1:18020"
      quic            = "127.0.0.1:18022"
      sync_status_url = "http://127.0.0.1:18021"
    }
    error_message = "the addresses are those of cluster.json"
  }
}

run "another_name_replaces_it" {
  variables {
    state_dir = run.a_running_demo.state_dir
    spec      = { name = "af-south" }
  }
  assert {
    condition     = [for region in jsondecode(file("${run.a_running_demo.state_dir}/cluster.json")).regions : region.name] == ["us-east", "af-south"]
    error_message = "the old region was removed, the new one added"
  }
}
