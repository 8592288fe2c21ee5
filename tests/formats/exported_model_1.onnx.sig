{"format_version": 1, "signer": "SHA256:/NlZ7PX2n0nnpt14qAEZTjnHJzOgkbQET+DRY13ykWU", "signature": "KOkvXgiXi1GOO7sbJvGppHc+NShG2EAHtC3rwNa9mICvlu7hkKOTAlxl324eV3jSagzs8vVjPEPOFLGrgmpcDA=="}
