"""What the attacks of an audit are made on: this installation's own noise, samples, steps and canaries, without a patient."""
