# A state folder of a demo with one region, gone again after the test.
resource "terraform_data" "folder" {
  input = var.program
  provisioner "local-exec" {
    command = "mkdir -m 0700 /tmp/gocomet-terraform-${self.id} && ${self.input} --state-dir /tmp/gocomet-terraform-${self.id} region add us-east"
  }
  provisioner "local-exec" {
    when    = destroy
    command = "rm -r /tmp/gocomet-terraform-${self.id}"
  }
}

variable "program" {
  type = string
}

output "state_dir" {
  value = "/tmp/gocomet-terraform-${terraform_data.folder.id}"
}
