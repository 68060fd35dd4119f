"""What coordinator, agent and client share and none of them owns."""
