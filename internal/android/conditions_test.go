package android

import "testing"

// TestUnmetered reads what ConnectivityService prints, shortened.
func TestUnmetered(t *testing.T) {
	const head = "NetworkProviders for:\n  WifiNetworkFactory\n\nActive default network: 116\n\nCurrent network preferences:\n\nCurrent Networks:\n"
	wifi := "  NetworkAgentInfo{network{116}  handle{498216857613}  ni{WIFI CONNECTED extra: } lp{{InterfaceName: wlan0}} nc{[ Transports: WIFI Capabilities: NOT_METERED&INTERNET&NOT_RESTRICTED&TRUSTED&NOT_VPN&VALIDATED LinkUpBandwidth>=12000Kbps]}}\n"
	mobile := "  NetworkAgentInfo{network{101}  handle{433792348173}  ni{MOBILE[LTE] CONNECTED} lp{{InterfaceName: rmnet0}} nc{[ Transports: CELLULAR Capabilities: SUPL&INTERNET&NOT_RESTRICTED&VALIDATED LinkUpBandwidth>=5000Kbps]}}\n"
	for name, c := range map[string]struct {
		text string
		want bool
		ok   bool
	}{
		"Wi-Fi":                {head + mobile + wifi, true, true},
		"a hotspot, metered":   {head + "  NetworkAgentInfo{network{116} nc{[ Transports: WIFI Capabilities: INTERNET&TEMPORARILY_NOT_METERED&VALIDATED]}}\n", false, true},
		"mobile":               {"Active default network: 101\nCurrent Networks:\n" + mobile + wifi, false, true},
		"an older Android":     {"Active default network: 100\nNetworkAgentInfo [WIFI () - 100]{ nc{[ Transports: WIFI Capabilities: NOT_METERED&INTERNET ]}}\n", true, true},
		"none":                 {"Active default network: none\n", false, true},
		"one that is not told": {head + mobile, false, false},
		"nothing":              {"", false, false},
	} {
		if got, err := unmetered(c.text); got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzUnmetered(f *testing.F) {
	f.Add("Active default network: 1\nNetworkAgentInfo{network{1} Capabilities: NOT_METERED")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = unmetered(text) // only that it ends
	})
}
