// Command pion drives pion's TURN client against a server and a peer that echoes.
//
// It says a line of JSON once every message has come back as it was, keeps its allocation until its
// standard input ends, and then deletes it. Any deviation ends it with a code other than 0.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/pion/turn/v5"
)

// Messages of each length; what is lost of them is sent again.
const messagesEach = 16

// How long a message may take to come back until it counts as lost.
const answerLimit = time.Second

// How often lost messages are sent again.
const triesMax = 20

// Payload lengths: the shortest with a number in it, odd ones, a packet of media, some that do not
// fit a packet of Ethernet.
var lengths = []int{4, 5, 7, 160, 1200, 1200, 9000, 30000}

// roundAgain is one whose messages go into one packet each.
const roundAgain = 4

type options struct {
	server, user, password, realm, peer, denied string
	relayed                                     int
}

func main() {
	var asked options
	flag.StringVar(&asked.server, "server", "", "address and port of the server")
	flag.StringVar(&asked.user, "user", "", "name")
	flag.StringVar(&asked.password, "password", "", "password")
	flag.StringVar(&asked.realm, "realm", "", "realm")
	flag.StringVar(&asked.peer, "peer", "", "address and port of a peer that echoes")
	flag.StringVar(&asked.denied, "denied", "", "address and port of a peer that must be refused")
	flag.IntVar(&asked.relayed, "relayed", 4, "family of the relayed address: 4 or 6")
	flag.Parse()
	if err := run(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(asked *options) error {
	if err := isRefused(asked); err != nil {
		return err
	}
	client, conn, err := dial(asked, asked.password)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer client.Close()
	mapped, err := client.SendBindingRequest()
	if err != nil {
		return fmt.Errorf("binding: %w", err)
	}
	if portOf(mapped) != portOf(conn.LocalAddr()) {
		return fmt.Errorf("%v is seen as %v", conn.LocalAddr(), mapped)
	}
	relay, err := client.Allocate()
	if err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	if err := useRelay(asked, client, relay); err != nil {
		return err
	}
	if err := relay.Close(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

func useRelay(asked *options, client *turn.Client, relay net.PacketConn) error {
	peer, err := net.ResolveUDPAddr("udp", asked.peer)
	if err != nil {
		return err
	}
	denied, err := net.ResolveUDPAddr("udp", asked.denied)
	if err != nil {
		return err
	}
	if err := client.CreatePermission(denied); err == nil {
		return fmt.Errorf("a permission for %v was given", denied)
	}
	if err := client.CreatePermission(peer); err != nil {
		return fmt.Errorf("permission: %w", err)
	}
	messages := 0
	for round, length := range lengths {
		if err := exchange(relay, peer, round, length); err != nil {
			return fmt.Errorf("messages of %d bytes: %w", length, err)
		}
		messages += messagesEach
	}
	if err := tell(relay, messages); err != nil {
		return err
	}
	// Each line asks for the messages of one round once more.
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := exchange(relay, peer, roundAgain, lengths[roundAgain]); err != nil {
			return fmt.Errorf("messages sent again: %w", err)
		}
		messages += messagesEach
		if err := tell(relay, messages); err != nil {
			return err
		}
	}
	return lines.Err()
}

// tell says how many messages have come back so far.
func tell(relay net.PacketConn, messages int) error {
	told := map[string]any{"relayed": relay.LocalAddr().String(), "messages": messages}
	return json.NewEncoder(os.Stdout).Encode(told)
}

// exchange sends messages in one burst, and those that do not come back again.
func exchange(relay net.PacketConn, peer *net.UDPAddr, round, length int) error {
	missing := make(map[uint32][]byte, messagesEach)
	for index := range messagesEach {
		number := uint32(round*messagesEach + index)
		missing[number] = message(number, length)
	}
	buffer := make([]byte, 65536)
	for range triesMax {
		for _, sent := range missing {
			if _, err := relay.WriteTo(sent, peer); err != nil {
				return err
			}
		}
		if err := relay.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
			return err
		}
		for len(missing) > 0 {
			read, from, err := relay.ReadFrom(buffer)
			if err != nil {
				// The deadline: the rest is lost.
				break
			}
			if from.String() != peer.String() {
				return fmt.Errorf("%v answered instead of %v", from, peer)
			}
			if err := check(buffer[:read]); err != nil {
				return err
			}
			delete(missing, binary.BigEndian.Uint32(buffer))
		}
		if len(missing) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d did not come back", len(missing))
}

// check compares a message, of this round or an earlier one, with what was sent.
func check(read []byte) error {
	if len(read) < 4 {
		return fmt.Errorf("%d bytes came", len(read))
	}
	number := binary.BigEndian.Uint32(read)
	round := int(number / messagesEach)
	if round >= len(lengths) || !bytes.Equal(read, message(number, lengths[round])) {
		return fmt.Errorf("message %d came back as another", number)
	}
	return nil
}

func message(number uint32, length int) []byte {
	text := make([]byte, length)
	for index := range text {
		text[index] = byte(int(number)*31 + index*7)
	}
	binary.BigEndian.PutUint32(text, number)
	return text
}

// isRefused makes sure that a wrong password gets nothing.
func isRefused(asked *options) error {
	client, conn, err := dial(asked, asked.password+"?")
	if err != nil {
		return err
	}
	defer conn.Close()
	defer client.Close()
	if _, err := client.Allocate(); err == nil {
		return fmt.Errorf("a wrong password got an allocation")
	}
	return nil
}

func dial(asked *options, password string) (*turn.Client, net.PacketConn, error) {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(unspecified(asked.server), "0"))
	if err != nil {
		return nil, nil, err
	}
	family := turn.RequestedAddressFamilyIPv4
	if asked.relayed == 6 {
		family = turn.RequestedAddressFamilyIPv6
	}
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr:         asked.server,
		TURNServerAddr:         asked.server,
		Conn:                   conn,
		Username:               asked.user,
		Password:               password,
		Realm:                  asked.realm,
		RequestedAddressFamily: family,
	})
	if err == nil {
		err = client.Listen()
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return client, conn, nil
}

// unspecified is the address to listen at for answers of a server.
func unspecified(server string) string {
	host, _, _ := net.SplitHostPort(server)
	if net.ParseIP(host).To4() == nil {
		return "::"
	}
	return "0.0.0.0"
}

func portOf(address net.Addr) int {
	udp, is := address.(*net.UDPAddr)
	if !is {
		return 0
	}
	return udp.Port
}
