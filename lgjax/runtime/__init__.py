"""Devices, hosts, signals, files, parallel work and faults: what everything else stands on."""
