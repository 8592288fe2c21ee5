{"format_version": 1, "signer": "SHA256:42G4EfZ1jh002Qyma7YkL78Gr3d4Mwf2jawANK1WYlc", "signature": "mma7FrJDwZp6JbmM+KjlspTUtcIW5BENF6oz3gMdDNfHRDyqnzZwnZDYI+gSYhNZxJ3SpA7Zlknh3acjIXdTAg=="}
